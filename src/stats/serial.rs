//! The table of classes for serde, which knows arrays up to 32 entries only.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

use super::ClassStats;
use crate::config::CLASS_COUNT;

pub(super) fn serialize<S: Serializer>(classes: &[ClassStats; CLASS_COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(classes)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[ClassStats; CLASS_COUNT], D::Error> {
    let classes = Vec::<ClassStats>::deserialize(deserializer)?;
    let count = classes.len();
    classes.try_into().map_err(|_| D::Error::invalid_length(count, &"an entry for each of the 64 size classes"))
}
