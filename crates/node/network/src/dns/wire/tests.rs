//! Messages, good and hostile.

use rand::{Rng, SeedableRng};

use super::*;

fn question(name: &str, kind: u16) -> Vec<u8> {
    write_query(7, &Name::parse(name).unwrap(), kind, true)
}

#[test]
fn a_question_comes_back_in_its_own_case() {
    let mut bytes = question("web.default", kind::A);
    bytes[13] = b'W';
    let Incoming::Query(query) = read_query(&bytes, false) else { panic!("not understood") };
    assert_eq!((query.name.to_string().as_str(), query.limit), ("web.default.", MAX_UDP));
    let mut reply = Reply::new(&query, Rcode::NoError).authoritative();
    reply.push(Section::Answer, &query.name, 5, &Rdata::A([1, 2, 3, 4].into()));
    let reply = reply.finish();
    assert_eq!(&reply[12..17], b"\x03Web\x07");
    let answer = Answer::read(reply, 7, &query.name, kind::A).unwrap();
    assert_eq!(answer.chain(), [(query.name.clone(), 5, Rdata::Raw(kind::A, vec![1, 2, 3, 4]))]);
    assert_eq!(answer.ttl(), 5);
}

#[test]
fn too_much_is_truncated_and_additional_records_are_left_out() {
    let bytes = question("many.default", kind::A);
    let Incoming::Query(query) = read_query(&bytes, false) else { panic!("not understood") };
    let mut reply = Reply::new(&query, Rcode::NoError);
    for n in 0..200 {
        reply.push(Section::Answer, &query.name, 5, &Rdata::A([10, 0, 0, n].into()));
    }
    let reply = reply.finish();
    assert!(reply.len() <= MAX_UDP);
    assert_eq!(Answer::read(reply, 7, &query.name, kind::A).unwrap_err(), Unusable::Truncated);
    let mut reply = Reply::new(&query, Rcode::NoError);
    reply.push(Section::Answer, &query.name, 5, &Rdata::A([10, 0, 0, 1].into()));
    for n in 0..200 {
        reply.push(Section::Additional, &query.name, 5, &Rdata::A([10, 0, 0, n].into()));
    }
    assert!(Answer::read(reply.finish(), 7, &query.name, kind::A).is_ok());
}

#[test]
fn hostile_queries_are_refused_or_ignored() {
    let good = question("web.default", kind::A);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let rcode = |bytes: &[u8]| match read_query(bytes, false) {
        Incoming::Reply(reply) => reply[3] & 0xf,
        other => panic!("{other:?}"),
    };
    assert!(matches!(read_query(&with(2, 0x80), false), Incoming::Ignore), "an answer");
    assert!(matches!(read_query(&good[..11], false), Incoming::Ignore));
    assert_eq!(rcode(&with(2, 0x28)), Rcode::NotImp as u8, "an update");
    assert_eq!(rcode(&with(5, 2)), Rcode::FormErr as u8, "two questions");
    assert_eq!(rcode(&with(12, 0xc0)), Rcode::FormErr as u8, "a compressed question");
    assert_eq!(rcode(&with(7, 9)), Rcode::FormErr as u8, "records that are not there");
    assert_eq!(rcode(&question("web.default", kind::AXFR)), Rcode::Refused as u8);
    let chaos = good.len() - 12;
    assert_eq!(rcode(&with(chaos, 3)), Rcode::Refused as u8, "class CHAOS");
    // EDNS version 1 gets BADVERS: its upper bits are in the OPT record.
    let version = good.len() - 5;
    assert_eq!(rcode(&with(version, 1)), 0);
}

#[test]
fn pointers_may_not_run_in_circles() {
    // At 12 a pointer to itself; at 14 one to 16, forward.
    let mut bytes = vec![0; 12];
    bytes.extend_from_slice(&[0xc0, 12, 0xc0, 16, 1, b'a', 0xc0, 16]);
    assert!(expand_name(&bytes, 12).is_none());
    assert!(expand_name(&bytes, 14).is_none());
    assert!(expand_name(&bytes, 16).is_none());
}

#[test]
fn no_bytes_at_all_make_it_panic() {
    let mut random = rand::rngs::SmallRng::seed_from_u64(20_261_122);
    let bytes = question("_http._tcp.web.default.svc.cluster.local", kind::SRV);
    let Incoming::Query(query) = read_query(&bytes, false) else { panic!("not understood") };
    let mut reply = Reply::new(&query, Rcode::NoError);
    let target = Name::parse("web.default.svc.cluster.local").unwrap();
    reply.push(Section::Answer, &query.name, 5, &Rdata::Srv { port: 80, target: target.clone() });
    reply.push(Section::Answer, &query.name, 5, &Rdata::Cname(target.clone()));
    reply.push(Section::Additional, &target, 5, &Rdata::A([1, 2, 3, 4].into()));
    let answer = reply.finish();
    for seed in [bytes, answer] {
        for _ in 0..50_000 {
            let mut bytes = seed.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            if let Incoming::Query(query) = read_query(&bytes, random.random()) {
                let _ = Reply::new(&query, Rcode::NxDomain).finish();
            }
            if let Ok(answer) = Answer::read(bytes, 7, &query.name, kind::SRV) {
                let _ = (answer.chain(), answer.ttl(), answer.reply(&query, 3, 30));
            }
        }
    }
}
