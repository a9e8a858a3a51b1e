//! A real `kube-apiserver` with its etcd, in processes of their own.

use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::cluster::NAMESPACE;
use super::{Program, free_address};

/// The token of who may do everything.
pub(crate) const ADMIN: &str = "admin-token";

/// Both, with no objects of ours yet.
pub(crate) struct Real {
    api: Option<Program>,
    assets: PathBuf,
    flags: Vec<String>,
    address: String,
    /// Ends after the one that asks it.
    _etcd: Program,
    folder: TempDir,
}

/// The binaries of a real one.
pub(crate) fn assets() -> Option<PathBuf> {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty())?;
    let folder = PathBuf::from(folder);
    for binary in ["etcd", "kube-apiserver"] {
        let path = folder.join(binary);
        assert!(
            path.is_file(),
            "KUBEBUILDER_ASSETS: there is no {}",
            path.display()
        );
    }
    Some(folder)
}

impl Real {
    /// Starts both, without waiting.
    pub(crate) fn start(assets: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(file(name), text).unwrap();
        let tls = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&tls).unwrap();
        write("tls.key", &tls.serialize_pem());
        write("tls.crt", &certificate.pem());
        let accounts = KeyPair::generate().unwrap();
        write("accounts.key", &accounts.serialize_pem());
        write("accounts.pub", &accounts.public_key_pem());
        write(
            "tokens.csv",
            &format!("{ADMIN},admin,admin,\"system:masters\"\n"),
        );

        let [clients, peers] =
            std::array::from_fn(|_| format!("http://{}", free_address().unwrap()));
        let mut command = Command::new(assets.join("etcd"));
        command
            .args(["--log-level=error", "--unsafe-no-fsync", "--name=etcd"])
            .arg(format!("--data-dir={}", file("etcd")))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=etcd={peers}"));
        let etcd = Program::start("etcd", folder.path(), &mut command).unwrap();
        let port = free_address().unwrap().port();
        let flags = [
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // Nobody makes the default accounts of namespaces.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("accounts.key")
            ),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--tls-cert-file={}", file("tls.crt")),
            format!("--tls-private-key-file={}", file("tls.key")),
            format!("--etcd-servers={clients}"),
            format!("--secure-port={port}"),
        ];
        let mut real = Self {
            api: None,
            assets,
            flags: flags.to_vec(),
            address: format!("https://127.0.0.1:{port}"),
            _etcd: etcd,
            folder,
        };
        real.run();
        real
    }

    /// Starts the API server, which is not running.
    pub(crate) fn run(&mut self) {
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command.args(&self.flags);
        let folder = self.folder.path();
        self.api = Some(Program::start("kube-apiserver", folder, &mut command).unwrap());
    }

    /// Stops it; what it knows is in etcd.
    pub(crate) async fn stop(&mut self) {
        if let Some(api) = self.api.take() {
            api.stop().await.unwrap();
        }
    }

    /// What the API server has printed.
    pub(crate) fn printed(&self) -> String {
        let printed = self.api.as_ref().map(Program::printed);
        printed.unwrap_or_default()
    }

    /// A file of that name that says how to come with `token`.
    pub(crate) fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.address, "certificate-authority": self.folder.path().join("tls.crt")}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
            "current-context": "x",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }
}
