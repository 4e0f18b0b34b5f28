//! The embedded store against the model.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "support/model.rs"]
mod model;

use model::{Subject, step};
use proptest::prelude::*;
use sampan_store::{
    Store,
    embedded::{Embedded, Options},
};

struct Opened {
    dir: tempfile::TempDir,
    store: Option<Embedded>,
}

impl Opened {
    fn new() -> Self {
        let mut opened = Self { dir: tempfile::tempdir().unwrap(), store: None };
        opened.restart();
        opened
    }
}

impl Subject for Opened {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        // Small, so that snapshots and rotation happen within a test.
        let options = Options { snapshot_log_bytes: 512, ..Options::new(self.dir.path()) };
        self.store = Some(Embedded::open(options).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(model::run(&mut Opened::new(), steps));
    }
}
