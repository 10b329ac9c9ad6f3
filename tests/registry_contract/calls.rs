//! Calls of the API that may be repeated.

use sha2::{Digest as _, Sha256};
use switchboard::registry::{Call, CallEnd, Claim};

use super::home::{Home, LONG, fleet};

fn call(key: &str, asked: &str, claim: &str) -> Call {
    Call {
        key: Sha256::digest(key).into(),
        asked: Sha256::digest(asked).into(),
        claim: claim.to_owned(),
    }
}

pub(super) async fn a_call_is_claimed_by_one_and_its_answer_kept(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let (one, two) = (call("k", "x", "one"), call("k", "x", "two"));
    assert_eq!(a.registry.claim_call(&one).await.unwrap(), Claim::Taken);
    assert_eq!(b.registry.claim_call(&two).await.unwrap(), Claim::UnderWay);
    assert_eq!(
        a.registry.claim_call(&one).await.unwrap(),
        Claim::Taken,
        "prolonged"
    );
    let other = b.registry.claim_call(&call("k", "y", "two")).await.unwrap();
    assert_eq!(other, Claim::Other);
    // An attempt that has lost its place settles nothing.
    let late = CallEnd::Done(b"late");
    b.registry.settle_call(&two, late).await.unwrap();
    assert_eq!(b.registry.claim_call(&two).await.unwrap(), Claim::UnderWay);
    let done = CallEnd::Done(b"\0answer");
    for _ in 0..2 {
        a.registry.settle_call(&one, done).await.unwrap();
    }
    let kept = Claim::Done(b"\0answer".to_vec());
    assert_eq!(b.registry.claim_call(&two).await.unwrap(), kept);
    let other = b.registry.claim_call(&call("k", "y", "two")).await.unwrap();
    assert_eq!(other, Claim::Other);
}

pub(super) async fn a_call_that_did_nothing_is_free_and_one_that_may_have_is_its_own(
    home: &dyn Home,
) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let (one, two) = (call("k", "x", "one"), call("k", "x", "two"));
    let another = call("k", "y", "three");
    assert_eq!(a.registry.claim_call(&one).await.unwrap(), Claim::Taken);
    a.registry.settle_call(&one, CallEnd::Free).await.unwrap();
    assert_eq!(b.registry.claim_call(&another).await.unwrap(), Claim::Taken);
    b.registry
        .settle_call(&another, CallEnd::Free)
        .await
        .unwrap();

    assert_eq!(a.registry.claim_call(&one).await.unwrap(), Claim::Taken);
    a.registry
        .settle_call(&one, CallEnd::Unknown)
        .await
        .unwrap();
    assert_eq!(b.registry.claim_call(&another).await.unwrap(), Claim::Other);
    assert_eq!(b.registry.claim_call(&two).await.unwrap(), Claim::Taken);
}
