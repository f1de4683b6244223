//! Mutual TLS between nodes: both ends show a certificate of the cluster's authority.
//!
//! Who connects checks that the other's certificate names the host that it connects to, or the name that is set for
//! all nodes; who is connected to checks the authority alone, as a node connects from any address. Which node it is
//! the hello says. TLS 1.3 only, and no session is resumed: every connection is checked against the files of now.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Wire;

/// Time between looks whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Whether a byte is the first of a TLS record that opens a connection or refuses one.
pub(super) fn is_record(first: u8) -> bool {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    matches!(first, ALERT | HANDSHAKE)
}

/// Where certificates come from: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This node's certificate and those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose nodes are let in.
    pub ca: PathBuf,
    /// What the certificates of all nodes name; unset, the host that is connected to.
    pub server_name: Option<String>,
}

/// The certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what}: {error}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        error: String,
    },
    /// Certificate, key and authority do not go together.
    #[error("cluster.tls: {0}")]
    Unusable(String),
}

/// What was read of the files.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Both sides' settings as of one reading.
struct Loaded {
    contents: Contents,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// This node's certificates, read again when they change.
pub struct PeerTls {
    files: TlsFiles,
    server_name: Option<ServerName<'static>>,
    loaded: Mutex<Loaded>,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let server_name = match &files.server_name {
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| TlsError::Unusable(format!("{name:?} is no host name")))?,
            ),
            None => None,
        };
        let loaded = Loaded::of(&files, read(&files)?)?;
        Ok(Arc::new(Self {
            files,
            server_name,
            loaded: Mutex::new(loaded),
        }))
    }

    /// Reads the files again; whether they have changed. What cannot be used changes nothing.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = read(&self.files)?;
        if contents == self.loaded.lock().contents {
            return Ok(false);
        }
        let loaded = Loaded::of(&self.files, contents)?;
        *self.loaded.lock() = loaded;
        Ok(true)
    }

    /// Looks again and again whether the files have changed. Connections that stand are left alone.
    pub async fn watch(tls: Weak<Self>) {
        let mut failed = false;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(tls) = tls.upgrade() else { return };
            // Three small files, every few seconds.
            match tls.reload() {
                Ok(true) => {
                    failed = false;
                    tracing::info!("the certificates of cluster.tls have changed; new connections use them");
                }
                Ok(false) => failed = false,
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(%error, "the new certificates of cluster.tls cannot be used; the old ones stay");
                }
                Err(_) => {}
            }
        }
    }

    /// The connecting side's handshake.
    pub(super) async fn connect(&self, wire: Wire, host: &str) -> Result<Wire, String> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| format!("{host:?} is nothing that a certificate can name"))?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.loaded.lock().client));
        match connector.connect(name, wire).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(explain(&error)),
        }
    }

    /// The accepting side's handshake.
    pub(super) async fn accept(&self, wire: Wire) -> Result<Wire, String> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded.lock().server));
        match acceptor.accept(wire).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(explain(&error)),
        }
    }
}

/// A failed handshake in words.
fn explain(error: &io::Error) -> String {
    let closed = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS; cluster.tls has to be set at all nodes or at none".to_owned()
        }
        Some(rustls::Error::NoCertificatesPresented) => "it shows no certificate".to_owned(),
        Some(error) => format!("TLS: {error}"),
        None if closed.contains(&error.kind()) => {
            "it closed the connection in the TLS handshake; its log says why, or it has no cluster.tls"
                .to_owned()
        }
        None => format!("TLS: {error}"),
    }
}

fn read(files: &TlsFiles) -> Result<Contents, TlsError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| TlsError::Read {
            path: path.to_owned(),
            error,
        })
    };
    Ok(Contents {
        cert: read(&files.cert)?,
        key: read(&files.key)?,
        ca: read(&files.ca)?,
    })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error: String| TlsError::Content {
        path: path.to_owned(),
        what: "certificate",
        error,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("there is none in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(error.to_string())),
    }
}

impl Loaded {
    fn of(files: &TlsFiles, contents: Contents) -> Result<Self, TlsError> {
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
        let chain = certificates(&files.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| TlsError::Content {
            path: files.key.clone(),
            what: "private key",
            error: error.to_string(),
        })?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.ca, &contents.ca)? {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        client.resumption = rustls::client::Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            contents,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}
