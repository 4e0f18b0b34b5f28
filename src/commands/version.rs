//! `sampan version`

use std::process::ExitCode;

use anyhow::Result;

use crate::{cli::Format, terminal};

pub(crate) fn run(format: Format) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let kubernetes = sampan_apiserver::GIT_VERSION;
    let value = serde_json::json!({"version": version, "kubernetes": kubernetes});
    terminal::print(format, &value, || format!("sampan {version} (Kubernetes API {kubernetes})\n"))?;
    Ok(ExitCode::SUCCESS)
}
