//! Which users are to be in which rooms: a fact in the user's shard, and a list of users in the room's shard, for who empties the room.
//!
//! The two may be on different servers, so no script writes both. Whatever the order of calls, and wherever one breaks off, a
//! membership that stands is in the list:
//!
//! - Who puts a user in takes out a name in the user's shard, lists the user under it in the room's, and then writes the membership,
//!   unless the name is gone by then: in that case it begins again.
//! - Who takes a user out reads the name in the list, undoes the name in the user's shard and then the membership, and unlists the user
//!   unless it has another name by then.
//!
//! So who undoes a name before the membership is written makes it begin anew, under another name, which is not unlisted; and who does
//! later undoes the membership. A user who is listed for nothing does no harm.

use std::time::Duration;

use jiff::Timestamp;
use redis::Cmd;

use super::{RedisRegistry, member, milliseconds, shards::TRIES, unreadable::text};
use crate::{
    connection::{Instance, UserId},
    link::Slot,
    registry::{
        Lasting, RegistryError, Room,
        keys::{Shard, escape, room_field, room_of},
    },
};

/// How long a user is being put into a room. One who takes longer begins again.
const KEEPING: Duration = Duration::from_secs(60);

impl RedisRegistry {
    /// Returns false if the user has `most` other lasting memberships.
    pub(super) async fn keep(
        &self,
        user: &UserId,
        lasting: &Lasting,
        most: usize,
    ) -> Result<bool, RegistryError> {
        let (field, escaped) = (room_field(&lasting.room), escape(user.as_str()));
        let (shard, of_room) = (
            self.shards.of_user(user),
            self.shards.of_room(&lasting.room),
        );
        let until = lasting
            .until
            .map(|until| until.as_millisecond().to_string())
            .unwrap_or_default();
        let mut listed = String::new();
        // The first try finds which name to list the user under.
        for _ in 0..=TRIES {
            let mut script = self.scripts.keep_in_room.prepare_invoke();
            script
                .key(self.keys.lasting(shard, &escaped))
                .key(self.keys.keeping(shard, &escaped))
                .arg(&field)
                .arg(&until)
                .arg(most)
                .arg(&listed)
                .arg(Instance::random().as_str())
                .arg(milliseconds(KEEPING));
            let slot = self.keys.slot_of(shard);
            let said: Vec<String> = self.link.query("keep_in_room", slot, &script).await?;
            match said.as_slice() {
                [kept] if kept == "kept" => return Ok(true),
                [_, name] => listed.clone_from(name),
                _ => return Ok(false),
            }
            let mut list = redis::cmd("HSET");
            list.arg(self.keys.kept(of_room, &field))
                .arg(&escaped)
                .arg(&listed);
            let slot = self.keys.slot_of(of_room);
            self.link.query::<i64>("keep_in_room", slot, &list).await?;
        }
        Err(RegistryError::Unavailable(
            "the user is taken out of the room again and again".to_owned(),
        ))
    }

    pub(super) async fn let_one_go(&self, user: &UserId, room: &Room) -> Result<(), RegistryError> {
        let (field, escaped) = (room_field(room), escape(user.as_str()));
        let of_room = self.shards.of_room(room);
        let list = self.keys.kept(of_room, &field);
        let mut name = redis::cmd("HGET");
        name.arg(&list).arg(&escaped);
        let slot = self.keys.slot_of(of_room);
        let name: Option<Vec<u8>> = self.link.query("let_go", slot, &name).await?;
        let undoing = self.undoing(self.shards.of_user(user), &escaped, &field);
        self.link.read_all::<i64>("let_go", &undoing).await?;
        if let Some(name) = name {
            let unlisting = self.unlisting(list, &[(escaped, name)]);
            self.link.query::<i64>("let_go", slot, &unlisting).await?;
        }
        Ok(())
    }

    /// Takes all users out of a room that its list has. The list is gone through once: a user that is in it all the while is met.
    pub(super) async fn let_everybody_go(&self, room: &Room) -> Result<(), RegistryError> {
        let (of_room, field) = (self.shards.of_room(room), room_field(room));
        let list = self.keys.kept(of_room, &field);
        let mut cursor = 0;
        loop {
            let (next, listed) = self.scan_on(&list, cursor, of_room).await?;
            let undoing = listed.iter().filter_map(|(escaped, _)| {
                let user = self.unreadable.skip("user", member::user_of(escaped))??;
                Some(self.undoing(self.shards.of_user(&user), escaped, &field))
            });
            let undoing: Vec<_> = undoing.flatten().collect();
            self.pool.read_all::<i64>("let_all_go", &undoing).await?;
            let unlisting = self.unlisting(list.clone(), &listed);
            let slot = self.keys.slot_of(of_room);
            self.pool
                .query::<i64>("let_all_go", slot, &unlisting)
                .await?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// The commands that undo that a user is to be in a room, or is being put into it.
    fn undoing(&self, shard: Shard, escaped: &[u8], field: &[u8]) -> [(Slot, Cmd); 2] {
        let keys = [
            self.keys.keeping(shard, escaped),
            self.keys.lasting(shard, escaped),
        ];
        keys.map(|key| {
            let mut out = redis::cmd("HDEL");
            out.arg(key).arg(field);
            (self.keys.slot_of(shard), out)
        })
    }

    /// `unlist_kept.lua` for users, as the list has them.
    fn unlisting(
        &self,
        list: Vec<u8>,
        listed: &[(Vec<u8>, Vec<u8>)],
    ) -> redis::ScriptInvocation<'_> {
        let mut script = self.scripts.unlist_kept.prepare_invoke();
        script.key(list);
        for (escaped, name) in listed {
            script.arg(escaped).arg(name);
        }
        script
    }

    pub(super) async fn read_lasting(&self, user: &UserId) -> Result<Vec<Lasting>, RegistryError> {
        let shard = self.shards.of_user(user);
        let all = Cmd::hgetall(self.keys.lasting(shard, &escape(user.as_str())));
        let kept = self
            .link
            .query("lasting", self.keys.slot_of(shard), &all)
            .await?;
        let (mut lasting, now) = (self.lasting_as_read(kept), Timestamp::now());
        lasting.retain(|it| it.holds(now));
        Ok(lasting)
    }

    /// The rooms that a user is to be in, as a hash gave them; those that can't be read are counted and left out.
    pub(super) fn lasting_as_read(&self, kept: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<Lasting> {
        let lasting = kept.into_iter().filter_map(|(room, until)| {
            let corrupt = || RegistryError::Corrupt("a lasting membership".into());
            let room = self
                .unreadable
                .skip("lasting", room_of(&room).ok_or_else(corrupt))?;
            let until = match text(until) {
                none if none.is_empty() => None,
                ms => {
                    let ms = ms.parse().ok();
                    let until = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
                    Some(self.unreadable.skip("lasting", until.ok_or_else(corrupt))?)
                }
            };
            Some(Lasting { room, until })
        });
        let mut lasting: Vec<_> = lasting.collect();
        lasting.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        lasting
    }
}
