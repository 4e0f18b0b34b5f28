//! Listing, naming, removing, holding; several handles on one store.

use std::fs;

use sampan_image::{Error, ErrorKind, Images};

use crate::import::docker_archive;
use crate::support::*;

#[tokio::test]
async fn names_and_removal() {
    let fixture = Fixture::new();
    let images = &fixture.images;
    let one = docker_archive(&[&tar(&[file("x", b"1")])], "app:1", None);
    let two = docker_archive(&[&tar(&[file("x", b"1")]), &tar(&[file("y", b"2")])], "app:2", None);
    fixture.import_bytes(&one, None).await.unwrap();
    fixture.import_bytes(&two, None).await.unwrap();
    images.tag("app:1", "other/name:x").await.unwrap();
    let names: Vec<_> = images.list().await.unwrap().into_iter().map(|image| image.reference).collect();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2", "docker.io/other/name:x"]);
    let details = images.inspect("app:1").await.unwrap();
    assert_eq!(details.names.len(), 2);
    assert_eq!(details.config.cmd, ["/bin/true"]);
    assert_eq!(details.layers[0].unpacked, Some(1));
    let id = details.summary.image_id;
    for text in [id.to_string(), id.short(), id.hex(), details.summary.digest.to_string()] {
        assert_eq!(images.find(&text).await.unwrap().unwrap().image_id, id, "{text}");
    }
    assert!(images.find("nothing:1").await.unwrap().is_none());
    assert_eq!(images.find("Bad Name").await.unwrap_err().kind(), ErrorKind::InvalidName);
    assert!(
        matches!(images.inspect("nothing").await.unwrap_err(), Error::NotPresent { name } if name.ends_with("nothing:latest"))
    );

    // A name goes, the content stays for the others; the shared layer outlives app:1.
    let removed = images.remove("app:1", false).await.unwrap();
    assert!(removed.deleted.is_empty());
    let plan = images.rootfs("other/name:x", "pod/1").await.unwrap();
    let error = images.remove("other/name:x", false).await.unwrap_err();
    assert!(matches!(&error, Error::InUse { users, .. } if users == "pod/1"), "{error}");
    let removed = images.remove(&id.short(), true).await.unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 1));
    assert!(plan.lower_dirs[0].join("x").exists(), "content in use stays");
    images.remove("app:2", false).await.unwrap();
    assert!(plan.lower_dirs[0].join("x").exists());
    images.release("pod/1").await.unwrap();
    images.prune(false).await.unwrap();
    assert!(!plan.lower_dirs[0].exists());
    let usage = images.disk_usage().await.unwrap();
    assert_eq!((usage.images, usage.blobs, usage.snapshots), (0, 0, 0));
    assert!(fs::read_dir(fixture.store().join("l")).unwrap().next().is_none());
    fixture.assert_clean();
}

#[tokio::test]
async fn another_process_sees_changes_at_once() {
    let fixture = Fixture::new();
    let other = Images::open(options(fixture.dir.path())).unwrap();
    assert!(other.list().await.unwrap().is_empty());
    fixture.import_bytes(&docker_archive(&[&tar(&[file("x", b"1")])], "app:1", None), None).await.unwrap();
    assert_eq!(other.list().await.unwrap().len(), 1);
    let plan = other.rootfs("app:1", "c").await.unwrap();
    assert_eq!(fixture.images.holders().await.unwrap()[0].holder, "c");
    // A hold survives whoever made it.
    drop(other);
    let error = fixture.images.remove("app:1", false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(plan.read_file("x", 10).unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn lost_layers_are_unpacked_again() {
    let fixture = Fixture::new();
    fixture.import(&gzipped(&fixture, &tar(&[file("x", b"1")])), Some("app:1")).await.unwrap();
    fs::remove_dir_all(fixture.store().join("snapshots")).unwrap();
    fs::create_dir(fixture.store().join("snapshots")).unwrap();
    let plan = fixture.images.rootfs("app:1", "c").await.unwrap();
    assert_eq!(plan.read_file("/x", 10).unwrap().unwrap(), b"1");
    // A damaged blob is found when it is needed.
    let layer = &fixture.images.inspect("app:1").await.unwrap().layers[0];
    let blob = fixture.store().join("blobs/sha256").join(layer.digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    fs::remove_dir_all(fixture.store().join("snapshots").join(layer.diff_id.hex())).unwrap();
    let error = fixture.images.rootfs("app:1", "c").await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    fs::write(&blob, &bytes[..middle]).unwrap();
    let error = fixture.images.rootfs("app:1", "c").await.unwrap_err().to_string();
    assert!(error.contains("missing or truncated"), "{error}");
}

#[tokio::test]
async fn newer_and_damaged_indexes_are_refused() {
    let fixture = Fixture::new();
    let index = fixture.store().join("index.json");
    fs::write(&index, br#"{"version":9,"images":[]}"#).unwrap();
    let error = Images::open(options(fixture.dir.path())).err().unwrap().to_string();
    assert!(error.contains("newer version"), "{error}");
    fs::write(&index, b"{\"version\":").unwrap();
    assert!(fixture.images.list().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collection_never_takes_what_is_being_imported() {
    let fixture = Fixture::new();
    let mut files = Vec::new();
    for at in 0..12 {
        let content = vec![at; 20_000];
        let layers = [tar(&[file("same", b"same")]), tar(&[file("own", &content)])];
        let path = fixture.path(&format!("{at}.tar"));
        fs::write(&path, docker_archive(&[&layers[0], &layers[1]], &format!("app:{at}"), None)).unwrap();
        files.push(path);
    }
    let other = Images::open(options(fixture.dir.path())).unwrap();
    let imports = files.iter().map(|path| fixture.images.import(path, Default::default()));
    let prunes = (0..40).map(|_| other.prune(true));
    let (imports, prunes) =
        futures::future::join(futures::future::join_all(imports), futures::future::join_all(prunes)).await;
    imports.into_iter().for_each(|result| drop(result.unwrap()));
    assert!(prunes.into_iter().all(|result| result.is_ok()));
    for at in 0..12 {
        let plan = fixture.images.rootfs(&format!("app:{at}"), "c").await.unwrap();
        assert_eq!(plan.read_file("own", 1).unwrap().unwrap(), [at]);
        assert_eq!(plan.read_file("same", 9).unwrap().unwrap(), b"same");
    }
}
