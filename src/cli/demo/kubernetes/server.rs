//! The API server: a real one where `KUBEBUILDER_ASSETS` has it, else the double.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::apiserver::{self, Real};
use super::NAMESPACE;
use crate::sim::kube::ApiServer;

/// Between two bookmarks of the double.
const BOOKMARKS: Duration = Duration::from_secs(10);
/// As whom the picker comes to a real one.
const ACCOUNT: &str = "pointsman";

/// It runs as long as this is there.
pub(super) struct Server {
    /// May do everything.
    pub(super) client: Client,
    /// The picker's kubeconfig: with a token of a ServiceAccount that has the rights of the chart's role, if the server is a real
    /// one. The double takes everybody.
    pub(super) kubeconfig: PathBuf,
    /// Which it is, and how to look at it, for people.
    pub(super) told: String,
    real: Option<Real>,
    /// Answers for the double.
    _serving: JoinSet<()>,
}

// === impl Server ===

impl Server {
    /// With the kinds that a picker reads, and the demo's namespace. What it keeps is in `folder`.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        match apiserver::assets()? {
            Some(assets) => Self::real(assets, folder).await,
            None => Self::double(folder).await,
        }
    }

    async fn real(assets: PathBuf, folder: &Path) -> anyhow::Result<Self> {
        let shown = assets.display().to_string();
        println!("Starting the kube-apiserver and the etcd of {shown}.");
        let mut real = Real::start(assets, folder.join("apiserver"))?;
        let admin = real.administrator(NAMESPACE)?;
        let client = apiserver::client(&admin).await?;
        real.until_ready(&client).await?;
        for definition in apiserver::KINDS {
            apiserver::install(&client, definition).await?;
        }
        apiserver::namespace(&client, NAMESPACE).await?;
        apiserver::account(&client, NAMESPACE, ACCOUNT, &apiserver::rules()).await?;
        let token = apiserver::token(&client, NAMESPACE, ACCOUNT).await?;
        let kubeconfig = real.kubeconfig("picker.kubeconfig", &token, NAMESPACE)?;
        let version = client.apiserver_version().await?.git_version;
        Ok(Self {
            client,
            kubeconfig,
            told: format!(
                "The API server is a real one, kube-apiserver {version} of {shown}; there are no nodes. To look at it:\n\n  kubectl --kubeconfig {} get pods -n {NAMESPACE}\n",
                admin.display(),
            ),
            real: Some(real),
            _serving: JoinSet::new(),
        })
    }

    async fn double(folder: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let mut serving = JoinSet::new();
        serving.spawn(ApiServer::new(BOOKMARKS).serve(listener, std::future::pending()));
        let kubeconfig = folder.join("kubeconfig");
        apiserver::kubeconfig(&kubeconfig, &address, None, NAMESPACE)?;
        Ok(Self {
            client: apiserver::client(&kubeconfig).await?,
            kubeconfig,
            told: format!(
                "There is no cluster: the API server is a double. A real one is taken where KUBEBUILDER_ASSETS names its folder. To look at it:\n\n  curl {address}/api/v1/namespaces/{NAMESPACE}/pods\n"
            ),
            real: None,
            _serving: serving,
        })
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let checked = self.real.as_mut().map_or(Ok(()), Real::check);
        checked.context("the API server")
    }

    /// Ends it.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self.real {
            Some(real) => real.end().await,
            None => Ok(()),
        }
    }
}
