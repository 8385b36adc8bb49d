//! Arrays of fixed length for serde, which supports only arrays of up to 32 entries.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

pub(crate) fn serialize<T: Serialize, S: Serializer, const N: usize>(
    table: &[T; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table)
}

pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<[T; N], D::Error> {
    let entries = Vec::<T>::deserialize(deserializer)?;
    let count = entries.len();
    entries.try_into().map_err(|_| D::Error::invalid_length(count, &"64 entries, one per size class or pool"))
}
