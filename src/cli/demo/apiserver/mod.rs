//! A real `kube-apiserver` with its etcd, in processes of their own: those of the folder that `KUBEBUILDER_ASSETS` names, as
//! envtest has it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use crate::cli::children::{Program, free_address};

mod furniture;

pub use furniture::{KINDS, POOLS, account, install, namespace, rules, token};

/// The variable that names the folder of the binaries.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// What is in it.
const BINARIES: [&str; 2] = ["etcd", "kube-apiserver"];
/// Between two looks at what is not there yet.
const TICK: Duration = Duration::from_millis(50);
/// An API server that says nothing for so long has failed. A watch says nothing for up to a minute.
const SILENCE: Duration = Duration::from_secs(90);

/// Both, with no objects of ours yet.
#[derive(Debug)]
pub struct Real {
    /// Not there while it is stopped.
    api: Option<Program>,
    assets: PathBuf,
    flags: Vec<String>,
    address: String,
    admin: String,
    /// Ends after the one that asks it.
    etcd: Program,
    folder: PathBuf,
}

/// How a server is reached that does not take everybody.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The certificate that it shows, or who signed that; PEM.
    pub ca: &'a Path,
    /// A bearer token.
    pub token: &'a str,
}

/// The folder of the binaries; none, where the variable is not set or is empty. An error if one of them is not in it.
pub fn assets() -> anyhow::Result<Option<PathBuf>> {
    match std::env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
        None => Ok(None),
        Some(folder) => complete(folder.into()).map(Some),
    }
}

fn complete(folder: PathBuf) -> anyhow::Result<PathBuf> {
    for binary in BINARIES {
        if !folder.join(binary).is_file() {
            bail!(
                "{ASSETS}: there is no file {}. Have the variable name a folder with {} (`setup-envtest use -p path` of controller-runtime \
                 prints one, `.ci/apiserver` builds one), or unset it: then the API server is a double",
                folder.join(binary).display(),
                BINARIES.join(" and "),
            );
        }
    }
    Ok(folder)
}

/// Writes a file that tells clients of the API server `server`, a URL; without credentials it takes everybody.
pub fn kubeconfig(
    path: &Path,
    server: &str,
    credentials: Option<Credentials<'_>>,
    namespace: &str,
) -> anyhow::Result<()> {
    let (mut cluster, mut user) = (json!({"server": server}), json!({}));
    if let Some(Credentials { ca, token }) = credentials {
        cluster["certificate-authority"] = json!(ca);
        user["token"] = json!(token);
    }
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        "current-context": "x",
    });
    write(path, &text.to_string())
}

/// A client by such a file.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let shown = kubeconfig.display();
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{shown}"))?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(read, &options).await?;
    config.read_timeout = Some(SILENCE);
    Ok(Client::try_from(config)?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

// === impl Real ===

impl Real {
    /// Starts both from the folder `assets`, without waiting. What they keep is in `folder`, which is made, for our user alone.
    pub fn start(assets: PathBuf, folder: PathBuf) -> anyhow::Result<Self> {
        // There are keys and tokens in it.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let file = |name: &str| folder.join(name).display().to_string();
        let keep = |name: &str, text: &str| write(&folder.join(name), text);
        let tls = KeyPair::generate()?;
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.self_signed(&tls)?;
        keep("tls.key", &tls.serialize_pem())?;
        keep("tls.crt", &certificate.pem())?;
        let accounts = KeyPair::generate()?;
        keep("accounts.key", &accounts.serialize_pem())?;
        keep("accounts.pub", &accounts.public_key_pem())?;
        let admin = Uuid::new_v4().to_string();
        let known = format!("{admin},admin,admin,\"system:masters\"\n");
        keep("tokens.csv", &known)?;

        let clients = format!("http://{}", free_address()?);
        let peers = format!("http://{}", free_address()?);
        let mut command = Command::new(assets.join("etcd"));
        command
            .args(["--log-level=error", "--unsafe-no-fsync", "--name=etcd"])
            .arg(format!("--data-dir={}", file("etcd")))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=etcd={peers}"));
        let etcd = Program::start("etcd", &folder, &mut command)?;
        let port = free_address()?.port();
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
            admin,
            etcd,
            folder,
        };
        real.run()?;
        Ok(real)
    }

    /// Starts the API server, which is not running.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command.args(&self.flags);
        let api = Program::start("kube-apiserver", &self.folder, &mut command)?;
        self.api = Some(api);
        Ok(())
    }

    /// Waits until the API server says by `client` that it is ready; an error if one of the two has ended.
    pub async fn until_ready(&mut self, client: &Client) -> anyhow::Result<()> {
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if client.request_text(request).await.is_ok() {
                return Ok(());
            }
            self.check()?;
            tokio::time::sleep(TICK).await;
        }
    }

    /// An error with the end of what it printed, if one of those that were started has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.etcd.check()?;
        self.api.as_mut().map_or(Ok(()), Program::check)
    }

    /// Stops the API server; what it knows is in etcd.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.api.take() {
            Some(api) => api.stop().await,
            None => Ok(()),
        }
    }

    /// Stops both.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.etcd.stop().await
    }

    /// What the API server has printed.
    pub fn printed(&self) -> String {
        let printed = self.api.as_ref().map(Program::printed);
        printed.unwrap_or_default()
    }

    /// A file that says how to come as the administrator.
    pub fn administrator(&self, namespace: &str) -> anyhow::Result<PathBuf> {
        self.kubeconfig("admin.kubeconfig", &self.admin, namespace)
    }

    /// A file `name` that says how to come with `token`.
    pub fn kubeconfig(&self, name: &str, token: &str, namespace: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        let ca = &self.folder.join("tls.crt");
        let credentials = Some(Credentials { ca, token });
        kubeconfig(&path, &self.address, credentials, namespace)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_binaries_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = || complete(folder.path().to_owned());
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        let wrong = check().unwrap_err().to_string();
        let path = folder.path().join("kube-apiserver");
        let expected = format!("KUBEBUILDER_ASSETS: there is no file {}.", path.display());
        assert!(wrong.starts_with(&expected), "{wrong}");
        assert!(wrong.contains("or unset it"), "{wrong}");
        std::fs::write(path, "").unwrap();
        assert_eq!(check().unwrap(), folder.path());
    }
}
