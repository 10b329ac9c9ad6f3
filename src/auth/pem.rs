//! Public keys in PEM (RFC 7468 §13, RFC 8017 appendix A.1.1): which kind each is, and what it is good for.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, Jwk},
};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::auth::{
    jwks::is_rsa_size,
    keys::{Allowed, Key},
};

/// `rsaEncryption`: RFC 3279 §2.3.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-ecPublicKey`, and the curves `prime256v1` and `secp384r1`: RFC 5480 §2.1.1.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// `id-Ed25519`: RFC 8410 §3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// All public keys in a file, of which there has to be one at least. The error says what is wrong with it.
pub(crate) fn public_keys(text: &str, allowed: &Allowed) -> Result<Vec<Key>, String> {
    let blocks = ::pem::parse_many(text).map_err(|_| "has a PEM block that is damaged")?;
    // The parser passes over a block that does not end.
    if text.matches("-----BEGIN ").count() != blocks.len() {
        return Err("has a PEM block that does not end".into());
    }
    if blocks.is_empty() {
        return Err("holds no PEM key".into());
    }
    let keys = blocks.iter().map(|block| {
        let (decoding, algorithms) = public_key(block.tag(), block.contents())?;
        Ok(Key::new(None, decoding, allowed.of(&algorithms)))
    });
    keys.collect()
}

fn public_key(label: &str, der: &[u8]) -> Result<(DecodingKey, Vec<Algorithm>), &'static str> {
    const UNKNOWN: &str = "holds a key that is not RSA, EC (P-256, P-384) or Ed25519";
    match label {
        "RSA PUBLIC KEY" => return rsa(der),
        "PUBLIC KEY" => {}
        "CERTIFICATE" => {
            return Err("holds a certificate: extract its key with `openssl x509 -pubkey -noout`");
        }
        label if label.ends_with("PRIVATE KEY") => {
            return Err("holds a private key: give the public one alone");
        }
        _ => return Err(UNKNOWN),
    }
    let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| UNKNOWN)?;
    let key = info.subject_public_key.as_bytes().ok_or(UNKNOWN)?;
    match (info.algorithm.oid, key.len()) {
        (RSA, _) => rsa(key),
        (EC, length) => {
            let algorithm = match (info.algorithm.parameters_oid(), length) {
                // Points that are compressed are shorter.
                (Ok(P256), 65) => Algorithm::ES256,
                (Ok(P384), 97) => Algorithm::ES384,
                _ => {
                    return Err(
                        "holds an EC key that is not an uncompressed point of P-256 or P-384",
                    );
                }
            };
            Ok((DecodingKey::from_ec_der(key), vec![algorithm]))
        }
        (ED25519, 32) => Ok((
            DecodingKey::from_ed_der(key),
            AlgorithmFamily::Ed.algorithms().to_vec(),
        )),
        _ => Err(UNKNOWN),
    }
}

/// Of the `RSAPublicKey` of RFC 8017 appendix A.1.1.
fn rsa(der: &[u8]) -> Result<(DecodingKey, Vec<Algorithm>), &'static str> {
    let key = DecodingKey::from_rsa_der(der);
    let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| "holds a broken RSA key")?;
    match jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if is_rsa_size(&rsa.n) => {
            Ok((key, AlgorithmFamily::Rsa.algorithms().to_vec()))
        }
        _ => Err("holds an RSA key that does not have 2048 to 8192 bits"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::auth::testing::file;

    fn kinds(text: &str) -> Result<Vec<Vec<Algorithm>>, String> {
        let keys = public_keys(text, &Allowed::default())?;
        Ok(keys.iter().map(|key| key.algorithms().to_vec()).collect())
    }

    #[test]
    fn tells_the_kinds_apart() {
        let rsa = AlgorithmFamily::Rsa.algorithms();
        for name in ["rsa2048.pub.pem", "rsa2048.pkcs1.pub.pem"] {
            assert_eq!(kinds(&file(name)).unwrap()[0], rsa, "{name}");
        }
        assert_eq!(kinds(&file("p256.pub.pem")).unwrap(), [[Algorithm::ES256]]);
        assert_eq!(kinds(&file("p384.pub.pem")).unwrap(), [[Algorithm::ES384]]);
        assert_eq!(
            kinds(&file("ed25519.pub.pem")).unwrap(),
            [[Algorithm::EdDSA]]
        );
    }

    #[test]
    fn takes_several_from_one_file() {
        let both = format!(
            "# old\n{}# new\n{}",
            file("p256.pub.pem"),
            file("ed25519.pub.pem")
        );
        assert_eq!(
            kinds(&both).unwrap(),
            [[Algorithm::ES256], [Algorithm::EdDSA]]
        );
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            (file("rsa2048.key.pem"), "private key"),
            (file("p256.key.pem"), "private key"),
            (file("rsa2048.crt.pem"), "certificate"),
            (file("rsa1024.pub.pem"), "2048"),
            (file("p521.pub.pem"), "P-256 or P-384"),
            (file("secp256k1.pub.pem"), "P-256 or P-384"),
            (String::new(), "no PEM key"),
            ("my-secret".into(), "no PEM key"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA".into(), "does not end"),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----".into(),
                "not RSA, EC",
            ),
            // On secp256k1, with the id of P-256 inside its point.
            (
                "-----BEGIN PUBLIC KEY-----\nMFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEBggqhkjOPQMBBwABAgMEBQYHCAkKCwwN\nDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NQ==\n-----END PUBLIC KEY-----".into(),
                "P-256 or P-384",
            ),
            (
                "-----BEGIN PUBLIC KEY-----\nA*A\n-----END PUBLIC KEY-----".into(),
                "damaged",
            ),
            (
                format!("-----BEGIN PUBLIC KEY-----\nAAAA\n{}", file("p256.pub.pem")),
                "damaged",
            ),
        ] {
            let problem = kinds(&text).unwrap_err();
            assert!(problem.contains(part), "{problem:?} does not say {part:?}");
        }
    }
}
