//! A measurement, not a test: what requests wait for while 100,000 manifests and 1,000,000 chunk references are looked at.
//! `benches/registry --chunks 1000000` runs it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sampan_daemon::Supervisor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Task;
use crate::{
    content::{
        blob_key,
        pack::index_key,
        recipe::{Chunk, Part, Recipe},
        recipe_key,
        unpack::pack_key,
    },
    core::Core,
    digest::Digest,
    meta::{Change, Content, Link, Manifest, Tag, keys},
    options::Options,
};

const REPOSITORIES: u32 = 20;
const MANIFESTS: u32 = 5_000;
/// Packed layers.
const LAYERS: usize = 81;

/// Chunk references of each packed layer: one has a fifth of all.
fn layers(chunks: usize) -> Vec<usize> {
    let mut layers = vec![chunks / 100; LAYERS];
    layers[0] = chunks / 5;
    layers
}

const CHUNKS_OF_PACK: u32 = 500;
const CHUNK: u32 = 20_000;
/// Contents that nothing needs, so that something is collected.
const GARBAGE: u32 = 5_000;

fn numbered(kind: &str, n: usize) -> Digest {
    Digest::of(format!("{kind}{n}").as_bytes())
}

fn write(dir: &Path, key: &str, bytes: &[u8]) {
    let path = dir.join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Commits whenever there is enough.
struct Filler<'a> {
    core: &'a Core,
    change: Change,
    count: usize,
}

impl Filler<'_> {
    async fn more(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(1000) {
            assert!(self.core.meta.commit(std::mem::take(&mut self.change)).await.unwrap());
        }
    }
}

fn content(size: u64, packed: bool) -> Vec<u8> {
    Content { size, made: 1, packed, plain: false, damaged: false }.encode()
}

/// Ten tags in a row share their layers, as versions do.
async fn fill(core: &Core, dir: &Path, chunks: usize) {
    let mut filler = Filler { core, change: Change::default(), count: 0 };
    for r in 0..REPOSITORIES {
        let repo = core.meta.repository_or_make(&format!("library/r{r}")).await.unwrap();
        for n in 0..MANIFESTS {
            let at = (r * MANIFESTS + n) as usize;
            let mut blobs = vec![numbered("config", at)];
            blobs.extend((0..4).map(|layer| numbered("layer", at / 10 * 4 + layer)));
            if at < LAYERS {
                blobs.push(numbered("packed", at));
            }
            let body = format!("{{\"schemaVersion\":2,\"n\":{at}}}");
            let digest = Digest::of(body.as_bytes());
            write(dir, &blob_key(&digest), body.as_bytes());
            for blob in &blobs {
                let packed = blob == blobs.last().unwrap() && at < LAYERS;
                filler.change.put(keys::link(repo, blob), Link { size: 1000, made: 1 }.encode());
                filler.change.put(keys::content(blob), content(1000, packed));
            }
            let manifest = Manifest {
                media_type: "x/y".into(),
                size: body.len() as u64,
                made: 1,
                blobs,
                ..Manifest::default()
            };
            filler.change.put_json(keys::manifest(repo, &digest), &manifest);
            filler.change.put(keys::content(&digest), content(body.len() as u64, false));
            let tag = Tag { digest, made: 1, checked: 0 };
            filler.change.put_json(keys::tag(repo, &format!("t{n}")), &tag);
            filler.more().await;
        }
    }
    for n in 0..GARBAGE {
        let digest = numbered("garbage", n as usize);
        write(dir, &blob_key(&digest), b"garbage");
        filler.change.put(keys::content(&digest), content(7, false));
        filler.more().await;
    }
    assert!(core.meta.commit(filler.change).await.unwrap());
    fill_packs(dir, chunks);
}

/// Every layer but the large one shares three quarters of its chunks with the one before.
fn fill_packs(dir: &Path, chunks: usize) {
    let (mut next, mut packs) = (0_u32, Vec::<Chunk>::new());
    let mut fresh = || {
        let (pack, place) = (next / CHUNKS_OF_PACK + 1, next % CHUNKS_OF_PACK);
        let mut hash = [0; 16];
        hash[..4].copy_from_slice(&next.to_be_bytes());
        next += 1;
        let chunk = Chunk { hash, pack, offset: place * CHUNK, packed: CHUNK, plain: 64 << 10 };
        packs.push(chunk);
        chunk
    };
    let mut before: Vec<Chunk> = Vec::new();
    for (n, count) in layers(chunks).into_iter().enumerate() {
        let chunks: Vec<Chunk> =
            (0..count).map(|at| if n > 1 && at % 4 != 0 { before[at] } else { fresh() }).collect();
        let size = count as u64 * (64 << 10);
        let recipe =
            Recipe { size, parts: vec![Part::Raw(size)], lanes: [chunks.clone(), Vec::new(), Vec::new()] };
        write(dir, &recipe_key(&numbered("packed", n)), &recipe.encode().unwrap());
        before = chunks;
    }
    for chunks in packs.chunks(CHUNKS_OF_PACK as usize) {
        let mut index = Vec::new();
        chunks.iter().for_each(|chunk| chunk.encode(&mut index));
        let pack = chunks[0].pack;
        write(dir, &index_key(pack), &index);
        write(dir, &pack_key(pack), b"");
        let file = std::fs::File::options().write(true).open(dir.join(pack_key(pack))).unwrap();
        file.set_len(chunks.len() as u64 * u64::from(CHUNK)).unwrap();
    }
}

/// Milliseconds of each request of a kind, until the end.
async fn ask(address: std::net::SocketAddr, stop: Arc<AtomicBool>, push: bool) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut times, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = n * 7919 % (REPOSITORIES * MANIFESTS) as usize;
        let (repo, tag) = (at / MANIFESTS as usize, at % MANIFESTS as usize);
        let request = if push {
            let body = format!(
                "{{\"schemaVersion\":2,\"layers\":[],\"config\":{{\"digest\":\"{}\",\"size\":1000,\"mediaType\":\"x/y\"}},\"annotations\":{{\"n\":\"{n}\"}}}}",
                numbered("config", at)
            );
            format!(
                "PUT /v2/library/r{repo}/manifests/new{n} HTTP/1.1\r\nhost: x\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        } else {
            format!("GET /v2/library/r{repo}/manifests/t{tag} HTTP/1.1\r\nhost: x\r\n\r\n")
        };
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        let status = &buffer[9..12];
        let expected: &[u8] = if push { b"201" } else { b"200" };
        assert_eq!(status, expected, "{}", String::from_utf8_lossy(&buffer[..read]));
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_by(f64::total_cmp);
    times
}

#[test]
#[ignore = "a measurement: a minute, 800 MB of disk"]
fn chunks_1000000() {
    collection(1_000_000);
}

#[test]
#[ignore = "a measurement: the same, smaller"]
fn chunks_100000() {
    collection(100_000);
}

fn collection(chunks: usize) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().to_owned();
    let mut options = Options::new(&dir, vec![([127, 0, 0, 1], 0).into()]);
    options.open = true;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = Supervisor::new();
        let begun = Instant::now();
        fill(&crate::service::open(options.clone(), &supervisor).await.unwrap(), &dir, chunks).await;
        println!("filled in {:.1} s", begun.elapsed().as_secs_f64());
        supervisor.shutdown(Duration::from_secs(20)).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(20));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = Supervisor::new();
        let begun = Instant::now();
        let core = crate::service::open(options, &supervisor).await.unwrap();
        println!("opened in {:.2} s", begun.elapsed().as_secs_f64());
        let bound = crate::http::server::Bound::bind(&core).await.unwrap();
        let address = bound.addresses[0];
        bound.serve(&core, &supervisor).unwrap();
        // What is free must be free for a second.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        for collecting in [false, true] {
            let stop = Arc::new(AtomicBool::new(false));
            let work = async {
                if collecting {
                    let task = Task { grace: Some(Duration::from_secs(1)), pack: false };
                    let report = core.clean(task).await.unwrap();
                    assert_eq!((report.contents, report.links), (GARBAGE as usize, 0));
                    println!("{}", serde_json::to_string(&report).unwrap());
                } else {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                stop.store(true, Ordering::Relaxed);
            };
            let (gets, pushes, ()) =
                tokio::join!(ask(address, stop.clone(), false), ask(address, stop.clone(), true), work);
            for (kind, times) in [("get", gets), ("push", pushes)] {
                let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
                println!(
                    "collecting {collecting}: {} of {kind}: median {:.2} ms, 99 % {:.2} ms, longest {:.2} ms",
                    times.len(),
                    at(0.5),
                    at(0.99),
                    at(1.0)
                );
            }
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
        supervisor.shutdown(Duration::from_secs(20)).await;
    });
}
