//! `sampan kubeconfig`

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};

use crate::{instance::Instance, terminal};

pub(crate) fn run(data_dir: &Path) -> Result<ExitCode> {
    let instance = Instance::open(data_dir)?;
    let file = instance.kubeconfig();
    let text = fs::read_to_string(&file).with_context(|| {
        format!("{} (hint: `sampan up` writes it; only root can read it)", file.display())
    })?;
    terminal::write(&text)?;
    Ok(ExitCode::SUCCESS)
}
