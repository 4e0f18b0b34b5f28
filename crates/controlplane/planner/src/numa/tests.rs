//! Hints beside upstream's cases and a slow reference; what containers get; what nodes say.

use serde_json::{Value, json};

use super::*;
use crate::random::Random;

fn mask(zones: &[usize]) -> Mask {
    zones.iter().copied().collect()
}

fn hint(zones: &[usize], preferred: bool) -> Hint {
    Hint { mask: Some(mask(zones)), preferred }
}

type Case<'a> = (&'a str, Vec<Option<Vec<Hint>>>, Option<&'a [usize]>, bool);

/// What a kubelet decides in these cases, by best-effort (which restricted shares, but for what it admits).
fn wide_cases() -> Vec<Case<'static>> {
    let any = Hint { mask: None, preferred: true };
    let never = Hint { mask: None, preferred: false };
    let all: Option<&[usize]> = Some(&[0, 1, 2, 3]);
    vec![
        ("nobody is asked", vec![], all, true),
        ("nobody minds", vec![None], all, true),
        ("it cannot be had", vec![Some(vec![])], all, false),
        ("any will do", vec![Some(vec![any])], all, true),
        ("none is good", vec![Some(vec![never])], all, false),
        ("the same", vec![Some(vec![hint(&[0], true)]), Some(vec![hint(&[0], true)])], Some(&[0]), true),
        ("one does not mind", vec![None, Some(vec![hint(&[1], true)])], Some(&[1]), true),
        (
            "what both have",
            vec![Some(vec![hint(&[0], true), hint(&[1], true)]), Some(vec![hint(&[1], true)])],
            Some(&[1]),
            true,
        ),
        (
            "the narrower of two",
            vec![
                Some(vec![hint(&[0], true), hint(&[1], true)]),
                Some(vec![hint(&[0], true), hint(&[0, 1], false)]),
            ],
            Some(&[0]),
            true,
        ),
        (
            "preferred before narrow",
            vec![
                Some(vec![hint(&[1], true), hint(&[0, 1], false)]),
                Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]),
            ],
            Some(&[1]),
            true,
        ),
        (
            "the first of equals",
            vec![
                Some(vec![hint(&[0, 1], true), hint(&[0, 2], true)]),
                Some(vec![hint(&[0, 1], true), hint(&[0, 2], true)]),
            ],
            Some(&[0, 1]),
            true,
        ),
        ("nothing in common", vec![Some(vec![hint(&[0], true)]), Some(vec![hint(&[1], true)])], all, false),
        (
            "one is not content",
            vec![Some(vec![hint(&[0], true)]), Some(vec![hint(&[0], false)])],
            Some(&[0]),
            false,
        ),
        (
            "both are content, not with the same",
            vec![Some(vec![hint(&[0], true)]), Some(vec![hint(&[0, 1], true)])],
            Some(&[0]),
            false,
        ),
        (
            "a wide one that is not preferred",
            vec![Some(vec![hint(&[0], true), hint(&[1], true)]), Some(vec![hint(&[0, 1], false)])],
            Some(&[0]),
            false,
        ),
    ]
}

/// The same where nothing is preferred: as many zones as whoever needs most.
fn cases_of_need() -> Vec<Case<'static>> {
    let quarter = || Some(vec![hint(&[0, 1, 2, 3], false), hint(&[0, 1], false)]);
    vec![
        (
            "as many as who needs most (1)",
            vec![quarter(), Some(vec![hint(&[0, 1], false)])],
            Some(&[0, 1]),
            false,
        ),
        (
            "as many as who needs most (2)",
            vec![quarter(), Some(vec![hint(&[0, 3], false)])],
            Some(&[0, 3]),
            false,
        ),
        (
            "as many as who needs most (3)",
            vec![quarter(), Some(vec![hint(&[1, 2], false)])],
            Some(&[1, 2]),
            false,
        ),
        (
            "as many as who needs most (4)",
            vec![quarter(), Some(vec![hint(&[2, 3], false)])],
            Some(&[2, 3]),
            false,
        ),
        (
            "as many as who needs most (5)",
            vec![quarter(), Some(vec![hint(&[1, 2], false), hint(&[2, 3], false)])],
            Some(&[1, 2]),
            false,
        ),
        (
            "as many as who needs most (6)",
            vec![
                quarter(),
                Some(vec![
                    hint(&[1, 2, 3], false),
                    hint(&[1, 2], false),
                    hint(&[1, 3], false),
                    hint(&[2, 3], false),
                ]),
            ],
            Some(&[1, 2]),
            false,
        ),
    ]
}

#[test]
fn resources_agree_as_with_a_kubelet() {
    for (what, lists, zones, preferred) in wide_cases().into_iter().chain(cases_of_need()) {
        for policy in [Policy::BestEffort, Policy::Restricted] {
            let verdict = merge(policy, 4, None, &lists);
            assert_eq!((verdict.mask, verdict.preferred), (zones.map(mask), preferred), "{what} by {policy}");
            assert_eq!(verdict.admitted, preferred || policy == Policy::BestEffort, "{what} by {policy}");
        }
        assert!(merge(Policy::None, 4, None, &lists).admitted, "{what}");
    }
}

#[test]
fn all_from_one_zone_as_with_a_kubelet() {
    let three = || Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]);
    let cases: Vec<Case<'_>> = vec![
        ("nobody is asked", vec![], None, true),
        ("nobody minds", vec![None], None, true),
        ("it cannot be had", vec![Some(vec![])], None, false),
        ("none is good", vec![Some(vec![Hint { mask: None, preferred: false }])], None, false),
        ("nothing in common", vec![Some(vec![hint(&[0], true)]), Some(vec![hint(&[1], true)])], None, false),
        (
            "one is not content",
            vec![Some(vec![hint(&[1], true)]), Some(vec![hint(&[1], false)])],
            None,
            false,
        ),
        ("two zones are too many", vec![Some(vec![hint(&[0, 1], true)]), three()], None, false),
        ("one does not mind", vec![three(), None], Some(&[0]), true),
        ("what both have", vec![three(), Some(vec![hint(&[1], true)])], Some(&[1]), true),
    ];
    for (what, lists, zones, admitted) in cases {
        let verdict = merge(Policy::SingleNumaNode, 2, None, &lists);
        assert_eq!((verdict.mask, verdict.admitted), (zones.map(mask), admitted), "{what}");
    }
}

#[test]
fn of_equally_many_the_closest() {
    let row = |far: &[u32]| far.to_vec();
    let distances = [
        row(&[10, 11, 12, 12, 30]),
        row(&[11, 10, 12, 12, 30]),
        row(&[12, 12, 10, 11, 30]),
        row(&[12, 12, 11, 10, 30]),
        row(&[30, 30, 30, 30, 10]),
    ];
    let both = |a: &[usize], b: &[usize]| Some(vec![hint(a, true), hint(b, true)]);
    let close = |lists: &[Option<Vec<Hint>>]| merge(Policy::BestEffort, 5, Some(&distances), lists).mask;
    assert_eq!(close(&[both(&[0, 4], &[0, 2]), both(&[0, 4], &[0, 2])]), Some(mask(&[0, 2])));
    assert_eq!(close(&[both(&[4], &[0, 2]), both(&[4], &[0, 2])]), Some(mask(&[4])), "fewer before closer");
    let quarter = Some(vec![hint(&[0, 1, 2, 3], false), hint(&[0, 1], false)]);
    let last = Some(vec![hint(&[1, 2], false), hint(&[2, 3], false)]);
    assert_eq!(close(&[quarter, last]), Some(mask(&[2, 3])));
}

/// The same, combination by combination and pair by pair, as KEP-693 tells it.
fn slowly(policy: Policy, zones: usize, lists: &[Option<Vec<Hint>>]) -> Verdict {
    let all = Mask::all(zones);
    let lists: Vec<Vec<Hint>> = lists
        .iter()
        .map(|hints| match hints {
            None => vec![Hint { mask: None, preferred: true }],
            Some(hints) if hints.is_empty() => vec![Hint { mask: None, preferred: false }],
            Some(hints) => hints.clone(),
        })
        .map(|hints| match policy {
            Policy::SingleNumaNode => hints
                .into_iter()
                .filter(|hint| hint.preferred && hint.mask.is_none_or(|mask| mask.count() == 1))
                .collect(),
            _ => hints,
        })
        .collect();
    let mut needed = 0;
    for hints in &lists {
        needed = needed.max(hints.iter().filter_map(|h| Some(h.mask?.count())).min().unwrap_or(0));
    }
    let narrower = |a: Mask, b: Mask| if a.count() == b.count() { a < b } else { a.count() < b.count() };
    let mut best: Option<(Mask, bool)> = None;
    let combinations = lists.iter().map(Vec::len).product::<usize>();
    for number in 0..combinations {
        let (mut rest, mut chosen) = (number, Vec::new());
        for hints in &lists {
            chosen.push(hints[rest % hints.len()]);
            rest /= hints.len();
        }
        let masks: Vec<Mask> = chosen.iter().filter_map(|hint| hint.mask).collect();
        let preferred =
            chosen.iter().all(|hint| hint.preferred) && masks.iter().all(|mask| *mask == masks[0]);
        let merged = masks.iter().fold(all, |merged, mask| merged.and(*mask));
        if merged.count() == 0 {
            continue;
        }
        let better = match best {
            None => true,
            Some((_, was)) if was != preferred => preferred,
            Some((current, true)) => narrower(merged, current),
            Some((current, false)) => match (current.count(), merged.count()) {
                (was, _) if was > needed => narrower(merged, current),
                (was, is) if was == needed => is == needed && merged < current,
                (_, is) if is > needed => false,
                (_, is) if is == needed => true,
                (was, is) => is > was || (is == was && merged < current),
            },
        };
        if better {
            best = Some((merged, preferred));
        }
    }
    let (found, preferred) = best.unwrap_or((all, false));
    let anywhere = policy == Policy::SingleNumaNode && found == all;
    let admitted = preferred || policy == Policy::BestEffort;
    Verdict { mask: (!anywhere).then_some(found), preferred, admitted }
}

#[test]
fn looking_at_each_outcome_once_finds_what_all_combinations_find() {
    let mut random = Random::new(7);
    for round in 0..3000 {
        let zones = 2 + random.below(3);
        let lists: Vec<Option<Vec<Hint>>> = (0..random.below(4))
            .map(|_| {
                let some = (0..random.below(5)).map(|_| Hint {
                    mask: (random.below(8) > 0).then(|| {
                        let bits = 1 + random.below((1 << zones) - 1);
                        (0..zones).filter(|zone| bits & (1 << zone) != 0).collect()
                    }),
                    preferred: random.below(2) == 0,
                });
                let some = some.collect();
                (random.below(6) > 0).then_some(some)
            })
            .collect();
        for policy in [Policy::BestEffort, Policy::Restricted, Policy::SingleNumaNode] {
            let (quick, slow) = (merge(policy, zones, None, &lists), slowly(policy, zones, &lists));
            assert_eq!(quick, slow, "round {round}, {policy}: {lists:?}");
        }
    }
}

/// So many zones with so many cores of two threads each, numbered as machines do: first all first threads.
fn machine(zones: usize, cores: usize, memory: i64) -> Machine {
    let all = zones * cores;
    let number = |number: usize| u32::try_from(number).unwrap();
    let cpu = |id: usize| Cpu { id: number(id), zone: (id % all) / cores, core: number(id % all) };
    Machine {
        zones: (0..zones).map(|id| MachineZone { id: number(id), memory }).collect(),
        cpus: (0..2 * all).map(cpu).collect(),
        distances: (0..zones).map(|a| (0..zones).map(|b| if a == b { 10 } else { 20 }).collect()).collect(),
    }
}

fn rules(policy: Policy, scope: Scope) -> Rules {
    Rules { policy, scope, cpus: true, memory: true, reserved_cpus: "0".parse().unwrap(), ..Rules::default() }
}

fn pod(containers: Value) -> Vec<Ask> {
    let list = |kind: &str| -> Vec<Value> {
        let all = containers
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(_, c)| (c["kind"].as_str().unwrap_or("main") == "main") == (kind == "main"));
        all.map(|(at, c)| {
            let amounts = json!({"cpu": c["cpu"], "memory": c["memory"].as_str().unwrap_or("100")});
            let mut container =
                json!({"name": format!("c{at}"), "resources": {"limits": amounts, "requests": amounts}});
            if c["kind"] == "sidecar" {
                container["restartPolicy"] = "Always".into();
            }
            container
        })
        .collect()
    };
    let spec = json!({"initContainers": list("init"), "containers": list("main")});
    asks(&serde_json::from_value(spec).unwrap())
}

fn try_place(rules: &Rules, others: &[&Holding], asked: Value) -> Result<Holding, Refusal> {
    place(&machine(2, 2, 1000), rules, others, &pod(asked), None)
}

fn cpus(holding: &Holding, container: &str) -> String {
    holding.containers[container].cpus.to_string()
}

#[test]
fn who_may_have_something_alone() {
    let spec = |resources: Value| {
        serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]})).unwrap()
    };
    assert!(asks(&spec(json!({"requests": {"cpu": "2"}}))).is_empty());
    assert!(asks(&spec(json!({"limits": {"cpu": "2"}}))).is_empty(), "memory must be bounded, too");
    let found = asks(&spec(json!({"limits": {"cpu": "2", "memory": "1Gi"}})));
    assert_eq!((found[0].cpus, found[0].memory), (2, 1 << 30));
    assert_eq!(
        asks(&spec(json!({"limits": {"cpu": "1500m", "memory": "1Gi"}})))[0].cpus,
        0,
        "parts are shared"
    );
    let mut whole: k8s_openapi::api::core::v1::PodSpec =
        spec(json!({"limits": {"cpu": "2", "memory": "1Gi"}}));
    whole.resources = Some(k8s_openapi::api::core::v1::ResourceRequirements::default());
    assert!(asks(&whole).is_empty(), "what a pod asks for as a whole belongs to no container");
}

#[test]
fn cpus_come_as_whole_zones_then_whole_cores_and_never_the_reserved() {
    let rules = rules(Policy::BestEffort, Scope::Container);
    // Zone 0 has CPUs 0, 1, 4, 5 (0 is reserved), zone 1 has 2, 3, 6, 7.
    let four = try_place(&rules, &[], json!([{"cpu": "4"}])).unwrap();
    assert_eq!((cpus(&four, "c0"), four.containers["c0"].zones.as_slice()), ("2-3,6-7".to_owned(), &[1][..]));
    let two = try_place(&rules, &[], json!([{"cpu": "2"}])).unwrap();
    assert_eq!(cpus(&two, "c0"), "1,5", "a whole core of zone 0");
    let three = try_place(&rules, &[&two], json!([{"cpu": "1"}, {"cpu": "2"}])).unwrap();
    assert_eq!((cpus(&three, "c0"), cpus(&three, "c1")), ("4".to_owned(), "2,6".to_owned()));
    let refused = try_place(&rules, &[&four, &two], json!([{"cpu": "2"}])).unwrap_err();
    assert_eq!(refused, Refusal::Cpus { asked: 2, free: 1 });
    assert_eq!(refused.reason(), "UnexpectedAdmissionError");
    let shared = try_place(&rules, &[&four, &two], json!([{"cpu": "500m"}])).unwrap();
    assert!(shared.cpus.is_empty());
}

#[test]
fn policies_refuse_what_does_not_come_from_the_right_zones() {
    let wide = json!([{"cpu": "5"}]);
    let place_by = |policy, others: &[&Holding], asked: &Value| {
        try_place(&rules(policy, Scope::Container), others, asked.clone())
    };
    assert_eq!(place_by(Policy::SingleNumaNode, &[], &wide), Err(Refusal::Topology));
    assert_eq!(Refusal::Topology.reason(), "TopologyAffinityError");
    // Memory of one zone would do, and both do not agree: restricted wants the best of each.
    assert_eq!(place_by(Policy::Restricted, &[], &wide), Err(Refusal::Topology));
    let both = json!([{"cpu": "5", "memory": "1500"}]);
    assert_eq!(
        place_by(Policy::Restricted, &[], &both).unwrap().cpus.len(),
        5,
        "no better on an empty machine"
    );
    assert_eq!(place_by(Policy::BestEffort, &[], &wide).unwrap().cpus.len(), 5);
    // CPUs are free in zone 0 alone, memory in zone 1 alone.
    let apart = Holding {
        cpus: "2-3,6-7".parse().unwrap(),
        memory: [(0, 950)].into(),
        containers: [("x".to_owned(), Pin { cpus: "2-3,6-7".parse().unwrap(), zones: vec![0] })].into(),
    };
    let small = json!([{"cpu": "2"}]);
    assert_eq!(place_by(Policy::SingleNumaNode, &[&apart], &small), Err(Refusal::Topology));
    assert_eq!(place_by(Policy::Restricted, &[&apart], &small), Err(Refusal::Topology));
    let anyhow = place_by(Policy::BestEffort, &[&apart], &small).unwrap();
    assert_eq!(anyhow.cpus.to_string(), "1,5");
    let none = place_by(Policy::None, &[&apart], &small).unwrap();
    assert_eq!((none.cpus.to_string(), none.memory), ("1,5".to_owned(), [(1, 100)].into()));
}

#[test]
fn a_pod_as_a_whole_comes_from_one_zone() {
    let asked = json!([{"cpu": "2"}, {"cpu": "2"}]);
    let container = try_place(&rules(Policy::SingleNumaNode, Scope::Container), &[], asked.clone()).unwrap();
    assert_eq!((cpus(&container, "c0"), cpus(&container, "c1")), ("1,5".to_owned(), "2,6".to_owned()));
    let pod = try_place(&rules(Policy::SingleNumaNode, Scope::Pod), &[], asked).unwrap();
    assert_eq!((cpus(&pod, "c0"), cpus(&pod, "c1")), ("2,6".to_owned(), "3,7".to_owned()));
    let three = json!([{"cpu": "2"}, {"cpu": "3"}]);
    assert_eq!(try_place(&rules(Policy::SingleNumaNode, Scope::Pod), &[], three), Err(Refusal::Topology));
}

#[test]
fn what_init_containers_had_the_others_get() {
    let rules = rules(Policy::SingleNumaNode, Scope::Container);
    let asked = json!([
        {"cpu": "2", "memory": "600", "kind": "init"},
        {"cpu": "1", "memory": "300", "kind": "sidecar"},
        {"cpu": "1", "memory": "500"},
    ]);
    let got = try_place(&rules, &[], asked).unwrap();
    assert_eq!(
        (cpus(&got, "c0"), cpus(&got, "c1"), cpus(&got, "c2")),
        ("1,5".into(), "1".into(), "5".into())
    );
    assert_eq!((got.cpus.to_string(), got.memory), ("1,5".to_owned(), [(0, 800)].into()));
}

#[test]
fn memory_of_one_zone_and_of_several_is_kept_apart() {
    let rules = rules(Policy::BestEffort, Scope::Container);
    let wide = try_place(&rules, &[], json!([{"cpu": "1", "memory": "1200"}])).unwrap();
    assert_eq!(
        (wide.containers["c0"].zones.as_slice(), &wide.memory),
        (&[0, 1][..], &[(0, 1000), (1, 200)].into())
    );
    let narrow = json!([{"cpu": "1", "memory": "100"}]);
    // Only together with what is together already.
    assert_eq!(try_place(&rules, &[&wide], narrow.clone()).unwrap().containers["c0"].zones, [0, 1]);
    let single = Rules { policy: Policy::SingleNumaNode, ..rules.clone() };
    assert_eq!(try_place(&single, &[&wide], narrow.clone()), Err(Refusal::Topology));
    let one = try_place(&rules, &[], narrow).unwrap();
    assert_eq!(try_place(&rules, &[&one], json!([{"cpu": "1", "memory": "1200"}])), Err(Refusal::Memory));
    let reserved = Rules { reserved_memory: [(0, 950)].into(), ..rules };
    let got = try_place(&reserved, &[], json!([{"cpu": "1", "memory": "100"}])).unwrap();
    assert_eq!(got.containers["c0"].zones, [1]);
}

#[test]
fn who_asks_for_more_or_less_stays_where_it_is_if_it_can() {
    let rules = rules(Policy::SingleNumaNode, Scope::Container);
    let machine = machine(2, 2, 1000);
    let ask = |cpu: &str| pod(json!([{"cpu": cpu}]));
    let other = place(&machine, &rules, &[], &ask("2"), None).unwrap();
    let first = place(&machine, &rules, &[&other], &ask("2"), None).unwrap();
    assert_eq!(first.cpus.to_string(), "2,6");
    let more = place(&machine, &rules, &[&other], &ask("3"), Some(&first)).unwrap();
    assert_eq!(more.cpus.to_string(), "2-3,6");
    let less = place(&machine, &rules, &[&other], &ask("1"), Some(&more)).unwrap();
    assert_eq!(less.cpus.len(), 1);
    assert_eq!(less.cpus.without(&more.cpus).len(), 0);
    // There is no room where it is, but elsewhere.
    let moved = place(&machine, &rules, &[], &ask("4"), Some(&other)).unwrap();
    assert_eq!(moved.cpus.to_string(), "2-3,6-7");
}

#[test]
fn nothing_is_given_twice() {
    let mut random = Random::new(11);
    let machine = machine(4, 4, 10_000);
    for policy in [Policy::None, Policy::BestEffort, Policy::Restricted, Policy::SingleNumaNode] {
        for scope in [Scope::Container, Scope::Pod] {
            let rules = Rules {
                policy,
                scope,
                cpus: true,
                memory: true,
                reserved_cpus: "0,16".parse().unwrap(),
                reserved_memory: [(1, 3000)].into(),
                closest: false,
            };
            let mut held: Vec<(Vec<Ask>, Holding)> = Vec::new();
            for _ in 0..300 {
                if random.below(3) == 0 && !held.is_empty() {
                    held.swap_remove(random.below(held.len()));
                }
                let kinds = [Kind::Init, Kind::Sidecar, Kind::Main];
                let mut asked: Vec<Ask> = (0..=random.below(3))
                    .map(|at| Ask {
                        name: format!("c{at}"),
                        kind: kinds[random.below(3)],
                        cpus: random.below(6),
                        memory: random.below(6000) as i64,
                    })
                    .collect();
                asked.sort_by_key(|ask| ask.kind);
                let others: Vec<&Holding> = held.iter().map(|(_, holding)| holding).collect();
                if let Ok(got) = place(&machine, &rules, &others, &asked, None) {
                    for ask in asked.iter().filter(|ask| ask.cpus > 0) {
                        assert_eq!(got.containers[&ask.name].cpus.len(), ask.cpus);
                    }
                    let single = |ask: &Ask| {
                        policy != Policy::SingleNumaNode || got.containers[&ask.name].zones.len() == 1
                    };
                    assert!(asked.iter().filter(|ask| ask.memory > 0).all(single));
                    held.push((asked, got));
                }
                let mut taken = rules.reserved_cpus.clone();
                let mut memory = [0, 3000, 0, 0];
                for (_, holding) in &held {
                    assert!(holding.cpus.and(&taken).is_empty());
                    taken.add(&holding.cpus);
                    holding.memory.iter().for_each(|(zone, bytes)| memory[*zone as usize] += bytes);
                    let of_containers =
                        holding.containers.values().all(|pin| pin.cpus.without(&holding.cpus).is_empty());
                    assert!(of_containers);
                }
                assert!(memory.iter().all(|bytes| *bytes <= 10_000), "{memory:?}");
            }
            assert!(!held.is_empty());
        }
    }
}

#[test]
fn a_node_says_what_is_left_of_its_zones() {
    let rules = Rules { reserved_memory: [(0, 100)].into(), ..rules(Policy::Restricted, Scope::Pod) };
    let held = try_place(&rules, &[], json!([{"cpu": "2", "memory": "300"}])).unwrap();
    let said = report(
        "a",
        &machine(2, 2, 1000),
        &rules,
        [("uid", &held), ("none", &Holding::default())].into_iter(),
    );
    let amounts = |zone: usize, resource: &str| {
        let found = said.zones[zone].resources.iter().find(|found| found.name == resource).unwrap();
        [&found.capacity, &found.allocatable, &found.available].map(|quantity| quantity.0.clone()).join(" ")
    };
    assert_eq!((amounts(0, "cpu"), amounts(1, "cpu")), ("4 3 1".to_owned(), "4 4 4".to_owned()));
    assert_eq!(
        (amounts(0, "memory"), amounts(1, "memory")),
        ("1000 900 600".to_owned(), "1000 1000 1000".to_owned())
    );
    assert_eq!(
        said.zones[1].costs,
        [Cost { name: "node-0".into(), value: 20 }, Cost { name: "node-1".into(), value: 10 }]
    );
    assert_eq!(said.topology_policies, ["RestrictedPodLevel"]);
    assert_eq!((said.attribute(POLICY), said.attribute(SCOPE)), (Some("restricted"), Some("pod")));
    assert_eq!(said.metadata.annotations.as_ref().unwrap()[PODS], "uid");
    let again: NodeTopology = serde_json::from_value(serde_json::to_value(&said).unwrap()).unwrap();
    assert_eq!(again, said);
}
