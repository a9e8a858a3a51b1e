//! CAs, and what they sign.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name`, and its key, both as PEM.
pub(crate) fn certificate(ca: &Ca, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (
        params.signed_by(&key, ca).unwrap().pem(),
        key.serialize_pem(),
    )
}

/// Puts such a pair into `folder` as `tls.crt` and `tls.key`.
pub(crate) fn install(ca: &Ca, name: &str, folder: &Path) {
    let (cert, key) = certificate(ca, name);
    std::fs::write(folder.join("tls.key"), key).unwrap();
    std::fs::write(folder.join("tls.crt"), cert).unwrap();
}
