//! How far members are, for those who ask.

use std::collections::BTreeMap;

use actix::prelude::*;
use starling_schema::ids::DeviceId;
use starling_schema::stream::{StreamKind, Watermarks};

use super::Heartbeats;
use crate::proto::purge::Coverage;

/// What is known of every member: how far it durably is, and when it was heard of, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Acks")]
pub(crate) struct AskAcks;

/// The answer to [`AskAcks`].
#[derive(Clone, Debug, Default, MessageResponse)]
pub(crate) struct Acks(pub(crate) BTreeMap<DeviceId, (Watermarks, u64)>);

impl Handler<AskAcks> for Heartbeats {
    type Result = Acks;

    fn handle(&mut self, _: AskAcks, _: &mut Self::Context) -> Acks {
        let heard_at_ms = |member| self.heard_at_ms.get(&member).copied().unwrap_or(0);
        let known = self.beacons.iter().map(|(member, said)| (member, (said.durable(), heard_at_ms(member))));
        Acks(known.collect())
    }
}

/// How far the members that count are, in shared streams.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Covered")]
pub(crate) struct AskCoverage;

/// The answer to [`AskCoverage`].
#[derive(Clone, Debug, MessageResponse)]
pub(crate) struct Covered(pub(crate) Coverage);

impl Handler<AskCoverage> for Heartbeats {
    type Result = Covered;

    fn handle(&mut self, _: AskCoverage, _: &mut Self::Context) -> Covered {
        // Silent members too: one that does not know of a delete may make the record anew, and what it then shows must
        // not depend on who has let go of the old fields.
        let others: Vec<DeviceId> =
            self.membership.members().keys().copied().filter(|member| *member != self.device).collect();
        let of = |member: DeviceId| self.beacons.of(member).map(|said| said.durable().of_kind(StreamKind::Shared));
        let ours = self.durable.of_kind(StreamKind::Shared);
        let mut any = ours.clone();
        for marks in others.iter().filter_map(|member| of(*member)) {
            any.join(&marks);
        }
        let least = |stream| others.iter().map(|member| of(*member).map_or(0, |marks| marks.get(stream))).min();
        let all = any.iter().map(|(stream, _)| {
            let ours = ours.get(stream);
            (stream, least(stream).map_or(ours, |least| least.min(ours)))
        });
        Covered(Coverage { all: all.collect(), any })
    }
}
