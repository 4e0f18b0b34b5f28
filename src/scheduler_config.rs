//! Reading a `KubeSchedulerConfiguration`.

use std::path::Path;

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sampan_controllers::SchedulerConfig;

/// Reads the file that `--scheduler-config` names, or gives the default; everything that is wrong is said at once.
pub(crate) fn read(file: Option<&Path>) -> Result<SchedulerConfig> {
    let Some(file) = file else { return Ok(SchedulerConfig::default()) };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value = serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))?;
    let mut config = SchedulerConfig::parse(value).map_err(|errors| {
        anyhow::anyhow!(
            "{} is no KubeSchedulerConfiguration that can be followed:\n  {}\n(hint: correct the file, then start again)",
            file.display(),
            errors.join("\n  ")
        )
    })?;
    for tls in config.extenders.iter_mut().filter_map(|extender| extender.tls_config.as_mut()) {
        let files = [
            (&tls.ca_file, &mut tls.ca_data),
            (&tls.cert_file, &mut tls.cert_data),
            (&tls.key_file, &mut tls.key_data),
        ];
        for (file, data) in files {
            if !file.is_empty() && data.is_empty() {
                let bytes = std::fs::read(file).with_context(|| format!("extender: {file}"))?;
                *data = STANDARD.encode(bytes);
            }
        }
    }
    Ok(config)
}
