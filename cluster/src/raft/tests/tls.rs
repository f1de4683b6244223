//! TLS between nodes: who is let in, and certificates that change.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::connections::{Node, nowhere};
use crate::raft::{PeerTls, TlsError, TlsFiles};

/// Signs the certificates of one cluster.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// Writes a certificate that names these hosts, its key, and the authorities that are trusted.
    fn issue(&self, directory: &Path, hosts: &[&str], trusted: &[&Self]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(hosts).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
        let trusted: Vec<&str> = trusted.iter().map(|authority| &authority.pem[..]).collect();
        std::fs::write(directory.join("ca.pem"), trusted.join("\n")).unwrap();
    }
}

fn files(directory: &Path, server_name: Option<&str>) -> TlsFiles {
    TlsFiles {
        cert: directory.join("cert.pem"),
        key: directory.join("key.pem"),
        ca: directory.join("ca.pem"),
        server_name: server_name.map(str::to_owned),
    }
}

/// Certificates for this machine's address, of an authority that trusts itself alone.
fn tls(authority: &Authority, hosts: &[&str], server_name: Option<&str>) -> Arc<PeerTls> {
    let directory = tempfile::tempdir().unwrap();
    authority.issue(directory.path(), hosts, &[authority]);
    PeerTls::load(files(directory.path(), server_name)).unwrap()
}

async fn node(number: u64, tls: Option<Arc<PeerTls>>) -> Node {
    Node::start_with(7, number, tls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_authority_talk_also_through_a_relay() {
    let authority = Authority::new();
    let tls = || Some(tls(&authority, &["127.0.0.1"], None));
    let (one, two, three) = (node(1, tls()).await, node(2, tls()).await, node(3, tls()).await);
    one.knows(3, three.address);
    assert_eq!(one.ask_until_answered(3, "a").await, &b"\x03a"[..]);
    one.knows(2, nowhere().await);
    three.knows(1, one.address);
    three.knows(2, two.address);
    assert_eq!(one.ask_until_answered(2, "b").await, &b"\x02b"[..]);
    assert_eq!(one.ways(), (1, 1));
    assert_eq!(three.transport.passed_on(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_of_the_authority_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let inside = node(1, Some(tls(&ours, &["127.0.0.1"], None))).await;
    let outside = node(2, Some(tls(&theirs, &["127.0.0.1"], None))).await;
    let plain = node(3, None).await;
    for one in [&inside, &outside, &plain] {
        for (number, other) in [(1, &inside), (2, &outside), (3, &plain)] {
            if !Arc::ptr_eq(&one.transport, &other.transport) {
                one.knows(number, other.address);
                let answer = one.ask(number, "let me in").await;
                assert!(
                    answer.is_err(),
                    "{:?} is let in by {number}",
                    one.transport.identity()
                );
            }
        }
    }
    // A node whose authority is trusted at one end only.
    let directory = tempfile::tempdir().unwrap();
    ours.issue(directory.path(), &["127.0.0.1"], &[&ours, &theirs]);
    let open = node(4, Some(PeerTls::load(files(directory.path(), None)).unwrap())).await;
    open.knows(2, outside.address);
    outside.knows(4, open.address);
    assert!(open.ask(2, "its authority does not know ours").await.is_err());
    assert!(outside.ask(4, "ours does not know the other's").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_names_the_host_or_the_name_that_is_set() {
    let authority = Authority::new();
    let elsewhere = node(1, Some(tls(&authority, &["10.1.2.3", "node-1.example"], None))).await;
    let by_host = node(2, Some(tls(&authority, &["127.0.0.1"], None))).await;
    by_host.knows(1, elsewhere.address);
    assert!(by_host.ask(1, "it is for another host").await.is_err());
    let by_name = node(3, Some(tls(&authority, &["127.0.0.1"], Some("node-1.example")))).await;
    by_name.knows(1, elsewhere.address);
    assert_eq!(by_name.ask_until_answered(1, "a").await, &b"\x01a"[..]);
    by_name.knows(2, by_host.address);
    assert!(by_name.ask(2, "it has not the name").await.is_err());
}

/// As Kubernetes changes them: a symbolic link to a directory is swapped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_count_for_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let home = tempfile::tempdir().unwrap();
    let swap = |authority: &Authority, trusted: &[&Authority], name: &str| {
        let version = home.path().join(name);
        std::fs::create_dir(&version).unwrap();
        authority.issue(&version, &["127.0.0.1"], trusted);
        std::os::unix::fs::symlink(name, home.path().join("next")).unwrap();
        std::fs::rename(home.path().join("next"), home.path().join("current")).unwrap();
    };
    swap(&old, &[&old], "1");
    let changing = PeerTls::load(files(&home.path().join("current"), None)).unwrap();
    let one = node(1, Some(Arc::clone(&changing))).await;
    let two = node(2, Some(tls(&old, &["127.0.0.1"], None))).await;
    let three = node(3, Some(tls(&new, &["127.0.0.1"], None))).await;
    one.knows(2, two.address);
    one.knows(3, three.address);
    assert_eq!(one.ask_until_answered(2, "a").await, &b"\x02a"[..]);
    assert!(one.ask(3, "not yet").await.is_err());
    assert!(!changing.reload().unwrap(), "nothing has changed");
    swap(&new, &[&new], "2");
    assert!(changing.reload().unwrap());
    assert_eq!(
        one.ask(2, "b").await.unwrap(),
        &b"\x02b"[..],
        "a connection that stands stays"
    );
    assert_eq!(one.ask_until_answered(3, "c").await, &b"\x03c"[..]);
    two.knows(1, one.address);
    assert!(two.ask(1, "of the old authority").await.is_err());
    // What cannot be used changes nothing.
    std::fs::write(home.path().join("2/key.pem"), "no key").unwrap();
    assert!(matches!(changing.reload(), Err(TlsError::Content { .. })));
    three.knows(1, one.address);
    assert_eq!(three.ask_until_answered(1, "d").await, &b"\x01d"[..]);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let error = || PeerTls::load(files(path, None)).unwrap_err().to_string();
    assert!(error().contains("cert.pem"), "{}", error());
    authority.issue(path, &["a"], &[&authority]);
    std::fs::write(path.join("ca.pem"), "").unwrap();
    assert!(error().contains("ca.pem holds no certificate"), "{}", error());
    authority.issue(path, &["a"], &[&authority]);
    std::fs::write(path.join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(error().contains("cluster.tls"), "{}", error());
    authority.issue(path, &["a"], &[&authority]);
    assert!(PeerTls::load(files(path, None)).is_ok());
}
