//! kill -9 in the middle of an import, and a full disk.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sampan_image::{Images, ImportOptions};

use crate::import::docker_archive;
use crate::support::*;

const CHILD: &str = "SAMPAN_IMAGE_TEST_CHILD";

/// Not a test of its own: the process that the others start and kill.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let images = Images::open(options(dir)).unwrap();
    let result = images.import(&dir.join("in.tar"), ImportOptions::default()).await;
    println!("result {}", result.map_or_else(|error| error.to_string(), |_| "ok".into()));
}

fn spawn_child(dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn big_archive(files: usize) -> Vec<u8> {
    let names: Vec<String> = (0..files).map(|at| format!("dir{}/file{at}", at % 50)).collect();
    let content = vec![7; 4000];
    let entries: Vec<_> = names.iter().map(|name| file(name, &content)).collect();
    docker_archive(&[&tar(&entries)], "big:1", None)
}

#[tokio::test]
async fn kill_in_the_middle_leaves_nothing_and_the_retry_works() {
    let fixture = Fixture::new();
    fs::write(fixture.path("in.tar"), big_archive(8000)).unwrap();
    let mut caught = 0;
    for files_before in [1, 500, 3000] {
        let mut child = spawn_child(fixture.dir.path());
        let deadline = Instant::now() + Duration::from_secs(60);
        while count_unpacked(&fixture.store()) < files_before && Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        caught += usize::from(fs::read_dir(fixture.store().join("leases")).unwrap().next().is_some());
        // The next process to come finds nothing half done.
        let images = Images::open(options(fixture.dir.path())).unwrap();
        for image in images.list().await.unwrap() {
            images.rootfs(&image.reference, "check").await.unwrap();
            images.release("check").await.unwrap();
            images.remove(&image.reference, false).await.unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::read_dir(fixture.store().join("tmp")).unwrap().next().is_some() && Instant::now() < deadline
        {
            tokio::task::yield_now().await;
        }
        assert!(fs::read_dir(fixture.store().join("tmp")).unwrap().next().is_none());
        assert!(fs::read_dir(fixture.store().join("leases")).unwrap().next().is_none());
    }
    assert!(caught > 0, "no kill came in time to test anything");
    let images = fixture.images.import(&fixture.path("in.tar"), ImportOptions::default()).await.unwrap();
    let plan = fixture.images.rootfs(&images[0].reference, "c").await.unwrap();
    assert_eq!(plan.read_file("dir49/file7999", 5000).unwrap().unwrap(), vec![7; 4000]);
    fixture.assert_clean();
}

fn count_unpacked(store: &Path) -> usize {
    let Ok(leases) = fs::read_dir(store.join("tmp")) else { return 0 };
    let mut files = 0;
    for lease in leases.flatten() {
        for snapshot in fs::read_dir(lease.path()).into_iter().flatten().flatten() {
            for dir in fs::read_dir(snapshot.path().join("fs")).into_iter().flatten().flatten() {
                files += fs::read_dir(dir.path()).into_iter().flatten().count();
            }
        }
    }
    files
}

#[test]
fn full_disk_is_said_and_leaves_a_working_store() {
    let fixture = Fixture::new();
    let exe = std::env::current_exe().unwrap();
    let mount = fixture.path("small");
    fs::create_dir(&mount).unwrap();
    fs::write(fixture.path("in.tar"), big_archive(3000)).unwrap();
    fs::write(fixture.path("tiny.tar"), docker_archive(&[&tar(&[file("x", b"1")])], "tiny:1", None)).unwrap();
    let (mount, dir) = (mount.display(), fixture.dir.path().display());
    let script = format!(
        "set -e; mount -t tmpfs -o size=8m tmpfs {mount}; ln -s {dir}/in.tar {mount}/in.tar
         {exe} --exact crash::child --nocapture; find {mount}/images/tmp {mount}/images/snapshots {mount}/images/partial -mindepth 1
         ln -sf {dir}/tiny.tar {mount}/in.tar; {exe} --exact crash::child --nocapture",
        exe = exe.display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .env(CHILD, fixture.path("small"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let results: Vec<_> = text.lines().filter_map(|line| line.split("result ").nth(1)).collect();
    assert_eq!(results.len(), 2, "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(results[0].contains("No space left") && results[0].contains("hint: free disk space"), "{text}");
    assert_eq!(results[1], "ok", "{text}");
    assert!(!text.contains("/images/"), "left behind: {text}");
}
