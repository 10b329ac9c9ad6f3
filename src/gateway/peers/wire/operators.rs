//! What nodes say to each other of operators' pages: the field `o` of a message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Command, is_default};
use crate::{
    connection::ConnectionId,
    gateway::message::{Json, PageEvent},
};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct OfOperators<'a> {
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    watch: Option<u32>,
    #[serde(rename = "s", skip_serializing_if = "is_default")]
    show: bool,
    #[serde(rename = "e", borrow, skip_serializing_if = "Option::is_none")]
    event: Option<Told<'a>>,
    #[serde(rename = "v", borrow, skip_serializing_if = "Option::is_none")]
    asked: Option<&'a str>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Told<'a> {
    #[serde(rename = "c", borrow, skip_serializing_if = "Option::is_none")]
    about: Option<&'a str>,
    #[serde(rename = "n")]
    name: &'a str,
    #[serde(rename = "l", borrow)]
    args: Vec<&'a str>,
}

impl<'a> OfOperators<'a> {
    /// What a command says; nothing if it is not of pages.
    pub(super) fn of(command: &'a Command<'_>) -> Self {
        let mut said = Self::default();
        match command {
            Command::Watch { connections } => said.watch = Some(*connections),
            Command::Show => said.show = true,
            Command::TellPages { event } => {
                said.event = Some(Told {
                    about: event.about.as_ref().map(ConnectionId::as_str),
                    name: &event.event,
                    args: event.args.iter().map(Json::text).collect(),
                });
            }
            Command::Operate { asked } => said.asked = Some(asked),
            _ => {}
        }
        said
    }

    /// None for what nobody but a later version writes.
    pub(super) fn command(self) -> Option<Command<'static>> {
        Some(match self {
            Self {
                watch: Some(connections),
                ..
            } => Command::Watch { connections },
            Self { show: true, .. } => Command::Show,
            Self {
                event: Some(Told { about, name, args }),
                ..
            } => Command::TellPages {
                event: Cow::Owned(PageEvent {
                    about: about.map(ConnectionId::from),
                    event: Cow::Owned(name.to_owned()),
                    args: args.into_iter().map(Json::read).collect::<Option<_>>()?,
                }),
            },
            Self {
                asked: Some(asked), ..
            } => Command::Operate {
                asked: Cow::Owned(asked.to_owned()),
            },
            _ => return None,
        })
    }
}
