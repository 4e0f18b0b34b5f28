//! `sampan image analyze`.

use std::path::Path;

use anyhow::Result;
use sampan_image::{Analysis, ImageAnalysis};

use super::open;
use crate::{
    cli::{Analyze, Format},
    terminal,
};

/// Lines of each table; `-o wide` shows more, `-o json` everything.
const SHOWN: usize = 10;
const SHOWN_WIDE: usize = 40;

pub(super) async fn run(data_dir: &Path, options: Analyze) -> Result<()> {
    let analysis = open(data_dir, &[])?.analyze(&options.images).await?;
    let shown = if options.output.output == Format::Wide { SHOWN_WIDE } else { SHOWN };
    terminal::print(options.output.output, &analysis, || text(&analysis, shown))
}

fn text(analysis: &Analysis, shown: usize) -> String {
    let mut out = String::new();
    for image in &analysis.images {
        one(&mut out, image, shown);
    }
    if !analysis.shared_layers.is_empty() {
        let rows = analysis.shared_layers.iter().take(shown).map(|layer| {
            vec![layer.digest.short(), terminal::bytes(layer.compressed), layer.images.join(", ")]
        });
        section(&mut out, "Layers of several images", &["LAYER", "SIZE", "IMAGES"], rows.collect());
    }
    if !analysis.repeated_packages.is_empty() {
        let rows = analysis.repeated_packages.iter().take(shown).map(|repeated| {
            let package = &repeated.package;
            vec![
                format!("{}:{}", package.manager, package.name),
                package.version.clone(),
                terminal::bytes(repeated.bytes),
                repeated.images.join(", "),
            ]
        });
        let title = format!(
            "The same packages in images without a common base: {} packages, {} more than once",
            analysis.repeated_packages.len(),
            terminal::bytes(analysis.repeated_bytes)
        );
        section(&mut out, &title, &["PACKAGE", "VERSION", "AGAIN", "IMAGES"], rows.collect());
    }
    out
}

fn one(out: &mut String, image: &ImageAnalysis, shown: usize) {
    let bytes = terminal::bytes;
    *out += &format!(
        "{}: {} files, {} of which {} are seen; {} compressed\n\n",
        image.image,
        image.files,
        bytes(image.bytes),
        bytes(image.visible),
        bytes(image.compressed)
    );
    let layers = image.layers.iter().enumerate().map(|(at, layer)| {
        let created: String = layer.created_by.chars().take(60).collect();
        vec![
            at.to_string(),
            layer.digest.short(),
            bytes(layer.compressed),
            bytes(layer.bytes),
            layer.files.to_string(),
            bytes(layer.wasted),
            created,
        ]
    });
    let header = ["#", "LAYER", "COMPRESSED", "BYTES", "FILES", "WASTED", "MADE BY"];
    section(out, "Layers", &header, layers.collect());
    let rows = image.directories.iter().take(shown);
    let rows = rows.map(|dir| vec![dir.path.display().to_string(), bytes(dir.bytes), dir.files.to_string()]);
    section(out, "Largest directories", &["DIRECTORY", "BYTES", "FILES"], rows.collect());
    if !image.wasted.is_empty() {
        let rows = image.wasted.iter().take(shown).map(|file| {
            let how = if file.deleted { "deleted" } else { "overwritten" };
            let layers = format!("{} in {}", file.layer, file.by);
            vec![file.path.display().to_string(), bytes(file.bytes), how.to_owned(), layers]
        });
        let title = format!(
            "Wasted: {} of {} files that later layers overwrite or delete",
            bytes(image.wasted_bytes),
            image.wasted.len()
        );
        section(out, &title, &["FILE", "BYTES", "", "LAYER"], rows.collect());
    }
    if !image.duplicates.is_empty() {
        let rows = image.duplicates.iter().take(shown).map(|group| {
            let paths: Vec<String> = group.paths.iter().map(|path| path.display().to_string()).collect();
            vec![bytes(group.bytes), paths.join(" ")]
        });
        let title = format!("Twice or more: {}", bytes(image.duplicate_bytes));
        section(out, &title, &["BYTES", "FILES"], rows.collect());
    }
    let rows = image.packages.iter().take(shown).map(|package| {
        vec![format!("{}:{}", package.manager, package.name), package.version.clone(), bytes(package.bytes)]
    });
    let title = format!("Largest of {} packages", image.packages.len());
    section(out, &title, &["PACKAGE", "VERSION", "BYTES"], rows.collect());
}

fn section(out: &mut String, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    *out += &format!("{title}\n{}\n", terminal::table(header, &rows));
}
