//! Public keys in PEM (RFC 7468 §13, RFC 8017 appendix A.1.1): which kind each is, and what it is good for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, Jwk},
};

use crate::auth::{
    jwks::is_rsa_size,
    keys::{Allowed, Key},
};

/// `prime256v1` and `secp384r1` in DER (RFC 5480 §2.1.1.1). A point's length does not tell P-256 from secp256k1.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// All public keys in a file, of which there has to be one at least. The error says what is wrong with it.
pub(crate) fn public_keys(text: &str, allowed: &Allowed) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let (label, after) = block.split_once(DASHES).ok_or(NO_END)?;
        let end = format!("-----END {label}-----");
        let (body, after) = after.split_once(&*end).ok_or(NO_END)?;
        let (decoding, algorithms) = public_key(label, body)?;
        keys.push(Key::new(None, decoding, allowed.of(&algorithms)));
        rest = after;
    }
    if keys.is_empty() {
        return Err("holds no PEM key".into());
    }
    Ok(keys)
}

const NO_END: &str = "has a PEM block that does not end";

fn public_key(label: &str, body: &str) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    if label.ends_with("PRIVATE KEY") {
        return Err("holds a private key: give the public one alone".into());
    }
    if label == "CERTIFICATE" {
        let problem = "holds a certificate: extract its key with `openssl x509 -pubkey -noout`";
        return Err(problem.into());
    }
    let pem = format!("{BEGIN}{label}{DASHES}{body}-----END {label}-----\n");
    let pem = pem.as_bytes();

    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| "holds a broken RSA key")?;
        return match jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if is_rsa_size(&rsa.n) => {
                Ok((key, AlgorithmFamily::Rsa.algorithms().to_vec()))
            }
            _ => Err("holds an RSA key that does not have 2048 to 8192 bits".into()),
        };
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        let der: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(der).unwrap_or_default();
        let is_on = |curve: &[u8]| der.windows(curve.len()).any(|window| window == curve);
        let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        return match length {
            65 if is_on(P256) => Ok((key, vec![Algorithm::ES256])),
            97 if is_on(P384) => Ok((key, vec![Algorithm::ES384])),
            _ => Err("holds an EC key that is not an uncompressed point of P-256 or P-384".into()),
        };
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return Ok((key, AlgorithmFamily::Ed.algorithms().to_vec()));
    }
    Err("holds a key that is not RSA, EC (P-256, P-384) or Ed25519".into())
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
        ] {
            let problem = kinds(&text).unwrap_err();
            assert!(problem.contains(part), "{problem:?} does not say {part:?}");
        }
    }
}
