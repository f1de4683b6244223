//! Certificates for clusters that talk over TLS, made for one test.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Signs the certificates of one cluster.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one, which nobody knows.
    ///
    /// # Panics
    /// Where the system gives no random numbers.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// Writes a certificate for these hosts, its key, and this authority into a directory; returns the table
    /// `[cluster.tls]` that names them.
    ///
    /// # Panics
    /// Where the directory cannot be written.
    pub fn issue(&self, directory: &Path, hosts: &[&str]) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(hosts).expect("hosts");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("the directory is writable");
            path
        };
        let cert = write("cert.pem", cert.pem());
        let key = write("key.pem", key.serialize_pem());
        let ca = write("ca.pem", self.pem.clone());
        format!("[cluster.tls]\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n")
    }
}
