//! `sampan secrets …`

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use serde_json::Value;

use crate::{cli::Secrets, instance::Instance, local, manage};

pub(crate) async fn run(data_dir: &Path, command: Secrets) -> Result<ExitCode> {
    let client = local::client(&Instance::open(data_dir)?)?;
    match command {
        Secrets::RotateKey => {
            let request = http::Request::post(manage::ROTATE_KEY).body(Vec::new())?;
            let answer: Value = client.request(request).await?;
            eprintln!("a new key is in use; {} objects were encrypted again", answer["rewritten"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}
