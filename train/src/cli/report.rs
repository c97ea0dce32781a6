//! `train report`: writes a page about runs.

use crate::settings::RunConfig;
use anyhow::Result;
use clap::Args;
use report::RunSummary;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use util::outln;

const EXAMPLES: &str = "\
Example:
  train report runs/first runs/second --out report.html";

/// Write a self-contained HTML page about runs and print a table of their metrics
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Run folders; several are compared
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Page to write [default: report.html in the first run]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print what would be done and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let page = args.out.clone();
    let page = page.unwrap_or_else(|| args.runs[0].join("report.html"));
    let summary = |run: &PathBuf| -> Result<RunSummary> {
        let run: &Path = run;
        // A configuration that training would refuse is refused here as well.
        RunConfig::read(run)?;
        RunSummary::read(run)
    };
    // A run that is named twice, as by a pattern and its name, counts once.
    let mut seen = BTreeSet::new();
    let is_new =
        |run: &&PathBuf| seen.insert(run.canonicalize().unwrap_or_else(|_| (*run).clone()));
    let runs: Vec<&PathBuf> = args.runs.iter().filter(is_new).collect();
    let runs = runs.into_iter().map(summary).collect::<Result<Vec<_>>>()?;
    if args.dry_run {
        let plural = if runs.len() == 1 { "" } else { "s" };
        outln!(
            "would write {} about {} run{plural}",
            page.display(),
            runs.len()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    report::write_page(&page, &runs)?;
    if args.json {
        outln!(
            "{}",
            json!({"report": page, "table": report::score_table(&runs)})
        )?;
    } else {
        outln!("{}", report::text_table(&runs))?;
        outln!("report: {}", page.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
