//! The agent over TLS: who is not who he should be is not listened to, and nothing else follows from it.

use pointsman::cli::demo::bootstrap::Profile;

use super::Node;
use crate::support::certificates::{ca, install};
use crate::support::{machine, pointsman, until};

/// What the agent is known by: its address.
const NAME: &str = "127.0.0.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_heard_once_its_ca_is_the_right_one_and_neutral_before() {
    let _machine = machine::shared().await;
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name);
    let (agents, pickers, strangers) = (ca(), ca(), ca());
    for (folder, ca, name) in [("agent", &agents, NAME), ("picker", &pickers, "picker")] {
        std::fs::create_dir(at(folder)).unwrap();
        install(ca, name, &at(folder));
    }
    std::fs::write(at("pickers.pem"), pickers.pem()).unwrap();
    std::fs::write(at("agents.pem"), strangers.pem()).unwrap();
    let flag = |flag: &str, name: &str| format!("{flag}={}", at(name).display());
    let agent_flags = [
        "--secure-serving".to_owned(),
        flag("--cert-path", "agent"),
        flag("--client-ca-file", "pickers.pem"),
    ];
    let picker_flags = [
        "--gpu-agents-tls".to_owned(),
        flag("--gpu-agents-ca-file", "agents.pem"),
        flag("--gpu-agents-cert-path", "picker"),
    ];
    let flags = [&agent_flags[..], &picker_flags[..]];
    let node = Node::unheard(Profile::DecisionOnly, 2, &[], ["", ""], flags).await;
    let cause = ("cause".to_owned(), "tls".to_owned());
    until("the failure to be counted", async || {
        let page = node.ground.page().await;
        let failed = page.sum("gpu_agent_failures_total", [(&cause.0, &cause.1)]);
        (failed >= 2.0).then_some(())
    })
    .await;
    node.until_sources("silent").await;
    let printed = node.ground.picker.process.printed();
    let line = printed
        .lines()
        .find(|l| l.contains("The GPU agent is not heard"));
    assert!(line.is_some_and(|l| l.contains("certificate")), "{printed}");
    assert_eq!(node.gpus().await.as_array().unwrap().len(), 0);
    node.is_undisturbed().await;

    // Others that cannot be read change nothing; the right ones are taken over without a restart.
    std::fs::write(at("agents.pem"), "no certificate").unwrap();
    until("the bad file to be told of", async || {
        let printed = node.ground.picker.process.printed();
        printed.contains("the old ones stay").then_some(())
    })
    .await;
    std::fs::write(at("agents.pem"), agents.pem()).unwrap();
    node.until_known(2).await;
    node.is_undisturbed().await;
    node.ground.sims.gpu(0, r#"{"xid":79}"#).await;
    node.until_stands("sim-0", "gpu-lost").await;

    // For people; and who has no certificate of his own is told nothing.
    let agent = format!("--agent={}", node.agent_at[0]);
    for (flags, served) in [(&picker_flags[..], true), (&picker_flags[..2], false)] {
        let asked = pointsman().arg("gpus").arg(&agent).args(flags).output();
        let asked = asked.await.unwrap();
        let said = String::from_utf8([asked.stdout, asked.stderr].concat()).unwrap();
        assert_eq!(said.contains("sim-1"), served, "{said}");
        assert_eq!(asked.status.success(), served, "{said}");
    }
}
