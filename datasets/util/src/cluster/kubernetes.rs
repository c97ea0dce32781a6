//! Manifests for Kubernetes.
//!
//! Every value that the user chose is written as JSON, which YAML reads as it is.

use serde_json::json;

use super::{DEFAULT_CPUS, JobArray, RETRIES, fill};

const ARRAY: &str = include_str!("kubernetes_array.yaml");
const JOB: &str = include_str!("kubernetes_job.yaml");

/// The options of a manifest.
#[derive(clap::Args, Debug, Clone)]
pub struct KubernetesOptions {
    /// Container image that has `ingest` and `train` in its PATH
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// Persistent volume claim with the data; several pods write to it at once
    #[arg(long, value_name = "CLAIM")]
    pub volume: String,
    /// Folder at which the volume is mounted: raw data in raw/, shards in shards/, runs in runs/
    #[arg(long, value_name = "DIR", default_value = "/data")]
    pub mount: String,
    /// Cores of each pod
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS, value_parser = clap::value_parser!(u16).range(1..))]
    pub cpus: u16,
    /// Memory of each pod
    #[arg(long, value_name = "SIZE", default_value = "8Gi")]
    pub memory: String,
    /// NVIDIA GPUs of each pod
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u16,
}

/// Returns the manifest of an Indexed Job and of the Job that finishes it.
pub fn array(options: &KubernetesOptions, array: &JobArray) -> String {
    let mut values = common(options, &array.name, &array.title);
    values.extend([
        ("FINISH_NAME", format!("{}-finish", array.name)),
        ("PARTS", array.parts.to_string()),
        ("PARTS_TEXT", json!(array.parts.to_string()).to_string()),
        ("PART", json!(array.part).to_string()),
        ("FINISH", json!(array.finish).to_string()),
    ]);
    fill(ARRAY, &values)
}

/// Returns the manifest of a Job with one pod.
pub fn job(options: &KubernetesOptions, name: &str, title: &str, command: &[String]) -> String {
    let mut values = common(options, name, title);
    values.push(("COMMAND", json!(command).to_string()));
    fill(JOB, &values)
}

fn common(options: &KubernetesOptions, name: &str, title: &str) -> Vec<(&'static str, String)> {
    let text = |value: &str| json!(value).to_string();
    let mut limits = json!({"memory": options.memory});
    if options.gpus > 0 {
        limits["nvidia.com/gpu"] = json!(options.gpus);
    }
    let requests = json!({"cpu": options.cpus, "memory": options.memory});
    vec![
        ("NAME", name.to_owned()),
        ("TITLE", title.to_owned()),
        ("IMAGE", text(&options.image)),
        ("CLAIM", text(&options.volume)),
        ("MOUNT", text(&options.mount)),
        (
            "RESOURCES",
            json!({"requests": requests, "limits": limits}).to_string(),
        ),
        ("RETRIES", RETRIES.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::ODD;
    use super::*;

    /// Each list of words stands on one line, from which JSON gives the words back.
    #[test]
    fn commands_keep_odd_words() {
        let options = KubernetesOptions {
            image: "registry/u2a:1".into(),
            volume: "it's \"mine\"".into(),
            mount: "/my data".into(),
            cpus: 2,
            memory: "8Gi".into(),
            gpus: 1,
        };
        let words = ODD.map(str::to_owned);
        let array = JobArray {
            name: "ingest-x".into(),
            title: "Ingests x".into(),
            parts: 8,
            part: words.to_vec(),
            finish: words.to_vec(),
        };
        let manifest = array_and_job(&options, &array, &words);
        let commands: Vec<Vec<String>> = manifest
            .lines()
            .filter_map(|line| line.trim().strip_prefix("command: "))
            .map(|json| serde_json::from_str(json).unwrap())
            .collect();
        assert_eq!(commands, [ODD, ODD, ODD]);
        assert!(
            manifest.contains(r#"claimName: "it's \"mine\"""#),
            "{manifest}"
        );
        assert!(manifest.contains(r#""nvidia.com/gpu":1"#), "{manifest}");
    }

    fn array_and_job(options: &KubernetesOptions, of: &JobArray, words: &[String]) -> String {
        array(options, of) + &job(options, "train-x", "Trains x", words)
    }
}
