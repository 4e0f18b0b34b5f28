//! `sampan certs …`

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use serde_json::Value;

use crate::{cli::Certs, identity::Certificate, instance::Instance, local, manage, terminal};

pub(crate) async fn run(data_dir: &Path, command: Certs) -> Result<ExitCode> {
    let client = local::client(&Instance::open(data_dir)?)?;
    match command {
        Certs::List(output) => {
            let request = http::Request::get(manage::CERTIFICATES).body(Vec::new())?;
            let list: Vec<Certificate> = client.request(request).await?;
            terminal::print(output.output, &list, || text(&list))?;
        }
        Certs::Rotate => {
            let request = http::Request::post(manage::ROTATE_CERTIFICATES).body(Vec::new())?;
            let answer: Value = client.request(request).await?;
            eprintln!("renewed {} certificates", answer["renewed"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(list: &[Certificate]) -> String {
    let row = |cert: &Certificate| {
        let renewal = cert.renewal.clone().unwrap_or_else(|| "-".to_owned());
        vec![cert.name.clone(), cert.subject.clone(), cert.not_after.clone(), renewal]
    };
    terminal::table(&["NAME", "SUBJECT", "EXPIRES", "RENEWAL"], &list.iter().map(row).collect::<Vec<_>>())
}
