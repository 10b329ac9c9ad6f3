//! What notices that the engine has let a session go, and what sees to it that its end is one.

use std::sync::Arc;

use super::Session;

/// Sits in the extensions of the session's request parts, which the engine keeps as long as it keeps the session: when the
/// last clone goes, the engine has let the session go, whatever the reason. So the end of a session that never got as far
/// as a namespace, or got lost on the way there, is noticed like any other. Nobody else keeps a clone. It may take as long
/// as a handshake: the engine's own timer for that holds on to the session. Where the end shows earlier, in a stream that
/// is dropped or a close packet, that counts.
pub struct SessionGuard(Arc<Session>);

impl SessionGuard {
    pub(in crate::transport) fn new(session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self(session))
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

/// The end of a session under way. With it the session is closed, whatever kept it: also when it panicked, and then at once.
pub(super) struct Closing<'a>(&'a Session);

impl<'a> Closing<'a> {
    pub(super) fn of(session: &'a Session) -> Self {
        Self(session)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if let Some(wire) = self.0.wire.lock().take() {
            wire.abort();
        }
        if std::thread::panicking()
            && let Some(engine) = self.0.engine.upgrade()
        {
            engine.forget(self.0);
        }
        self.0.closed.set(()).ok();
    }
}
