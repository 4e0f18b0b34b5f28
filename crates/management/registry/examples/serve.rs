//! An open registry on plain HTTP, for measuring: `serve ADDRESS DIR`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_daemon::Supervisor;
use sampan_registry::{Options, Registry};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (address, dir) = (arguments.next().expect("ADDRESS"), arguments.next().expect("DIR"));
    let mut options = Options::new(dir, vec![address.parse().expect("an address")]);
    options.open = true;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = Supervisor::new();
        let _handle = Registry::start(options, &supervisor).await.unwrap();
        supervisor.token().cancelled().await;
    });
}
