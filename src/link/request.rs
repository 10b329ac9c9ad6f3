//! What Redis can be asked.

use jiff::Timestamp;
use redis::{
    Cmd, ErrorKind, Pipeline, RedisFuture, RedisResult, ScriptInvocation, ServerErrorKind, Value,
    aio::ConnectionLike,
};

/// One thing that Redis can be asked, about keys of one slot.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// One command.
    Command(&'a Cmd),
    /// A script; loaded first if the server does not have it.
    Script(&'a ScriptInvocation<'a>),
    /// A script, and a command behind it, sent together. Both are answered, or neither.
    Followed(&'a ScriptInvocation<'a>, &'a Cmd),
    /// Commands of any slots, all of one server, sent together. The answers hold their errors.
    Together(&'a Pipeline),
}

impl<'a> From<&'a Cmd> for Request<'a> {
    fn from(cmd: &'a Cmd) -> Self {
        Self::Command(cmd)
    }
}

impl<'a> From<&'a mut Cmd> for Request<'a> {
    fn from(cmd: &'a mut Cmd) -> Self {
        Self::Command(cmd)
    }
}

impl<'a> From<&'a ScriptInvocation<'a>> for Request<'a> {
    fn from(script: &'a ScriptInvocation<'a>) -> Self {
        Self::Script(script)
    }
}

impl<'a, 'b: 'a> From<&'a mut ScriptInvocation<'b>> for Request<'a> {
    fn from(script: &'a mut ScriptInvocation<'b>) -> Self {
        Self::Script(script)
    }
}

impl Request<'_> {
    pub(super) async fn on(
        self,
        connection: &mut (impl ConnectionLike + Send),
    ) -> RedisResult<Value> {
        match self {
            Self::Command(cmd) => cmd.query_async(connection).await,
            Self::Script(script) => script.invoke_async(connection).await,
            Self::Followed(script, cmd) => {
                let mut both = redis::pipe();
                both.invoke_script(script).add_command(cmd.clone());
                match all_of(connection, &both).await {
                    Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                        script.load_async(connection).await?;
                        all_of(connection, &both).await
                    }
                    answers => answers,
                }
            }
            Self::Together(pipeline) => {
                let answers = connection.req_packed_commands(pipeline, 0, pipeline.len());
                Ok(Value::Array(answers.await?))
            }
        }
    }
}

/// The answers, or the first of them that is an error.
async fn all_of(
    connection: &mut (impl ConnectionLike + Send),
    pipeline: &Pipeline,
) -> RedisResult<Value> {
    let answers = connection.req_packed_commands(pipeline, 0, pipeline.len());
    let answers = answers.await?.into_iter().map(Value::extract_error);
    Ok(Value::Array(answers.collect::<RedisResult<_>>()?))
}

/// Puts `ASKING` before each command, on a connection to a server that has been given a slot but not yet all its keys: it answers
/// for those that it has.
pub(super) struct Asking<C>(pub(super) C);

impl<C: ConnectionLike + Send> ConnectionLike for Asking<C> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut both = redis::pipe();
            both.cmd("ASKING").add_command(cmd.clone());
            // Sent as one, so that nothing of another call comes between.
            let mut answers = self.0.req_packed_commands(&both, 1, 1).await?;
            Ok(answers.pop().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut each = redis::pipe();
            for cmd in pipeline.cmd_iter() {
                each.cmd("ASKING").add_command(cmd.clone());
            }
            let answers = self.0.req_packed_commands(&each, 0, each.len()).await?;
            let answers = answers.into_iter().skip(1).step_by(2);
            Ok(answers.skip(offset).take(count).collect())
        })
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// Reads the answer of `TIME`, to the millisecond: seconds, and microseconds beyond them. None if it is no time.
pub(crate) fn time(answer: &[Option<Vec<u8>>]) -> Option<Timestamp> {
    let number = |part: &Option<Vec<u8>>| -> Option<i64> {
        std::str::from_utf8(part.as_ref()?).ok()?.parse().ok()
    };
    let [seconds, micros] = answer else {
        return None;
    };
    let millis = number(seconds)?
        .checked_mul(1000)?
        .checked_add(number(micros)? / 1000)?;
    Timestamp::from_millisecond(millis).ok()
}
