//! The process around the picker: TLS, health, exit codes, its configuration as it changes, what it tells of its decisions,
//! what it records.

mod decisions;
mod gpus;
mod health;
mod herd;
mod pages;
mod record;
mod reload;
mod retries;
mod tls;
mod trust;

use crate::support::pointsman;

#[tokio::test]
async fn a_configuration_that_is_wrong_is_told_line_by_line_with_exit_code_64() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("picker.yaml");
    let config_file = format!("--config-file={}", file.display());
    let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n";
    for (plugins, line, expected) in [
        (
            "- type: queue-scorrer\n",
            "4: ",
            "did you mean `queue-scorer`?",
        ),
        (
            "- type: max-score-picker\n  parameters:\n    maxNumEndpoints: 2\n",
            "6: ",
            "did you mean `maxNumOfEndpoints`?",
        ),
    ] {
        std::fs::write(&file, format!("{head}{plugins}")).unwrap();
        for arguments in [
            vec!["check", file.to_str().unwrap()],
            vec!["serve", &config_file],
            // As the llm-d picker is started.
            vec![&config_file, "-v=4"],
        ] {
            let output = pointsman().args(&arguments).output().await.unwrap();
            assert_eq!(output.status.code(), Some(64), "{arguments:?}");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(line) && said.contains(expected), "{said}");
        }
    }
    let output = pointsman().args(["serve", "--grpc-prot=1"]).output();
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--grpc-port"));
}
