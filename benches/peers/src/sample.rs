//! The report of a worker on one run: one line of `key=value` words.

/// The first word of the line; anything else a worker prints is ignored.
const HEAD: &str = "sample";

macro_rules! sample {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// One run of one workload in one process. Times and faults are those of the measured
        /// part, without start-up and set-up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Sample {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Sample {
            /// The names of the fields, in order.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The values, in the order of [`Self::FIELDS`].
            #[must_use]
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$field),*]
            }

            /// Makes a sample of these values, in the order of [`Self::FIELDS`].
            #[must_use]
            pub fn from_values(values: &[u64]) -> Self {
                let mut sample = Self::default();
                for (name, &value) in Self::FIELDS.iter().zip(values) {
                    sample.set(name, value).expect("the names are those of the fields");
                }
                sample
            }

            fn set(&mut self, name: &str, value: u64) -> Option<()> {
                match name {
                    $(stringify!($field) => self.$field = value,)*
                    _ => return None,
                }
                Some(())
            }
        }
    };
}

sample! {
    /// Wall time in nanoseconds.
    nanos,
    /// Operations, as the workload counts them.
    operations,
    /// The checksum of the work. It must be the same for every allocator.
    checksum,
    /// User time in nanoseconds, all threads.
    user_nanos,
    /// System time in nanoseconds, all threads.
    system_nanos,
    /// Minor page faults.
    faults,
    /// Context switches of threads that waited: for a lock, for another thread, for a file.
    waits,
    /// RSS before the measured part, in bytes.
    start_rss,
    /// Highest RSS of the process, in bytes.
    peak_rss,
    /// RSS after the measured part, in bytes.
    end_rss,
    /// Bytes asked for and live at the peak, where the workload reports it.
    live_bytes,
    /// Requests (counting build only).
    requests,
    /// Requests of 512 bytes or less (counting build only).
    small_requests,
    /// Bytes asked for (counting build only).
    requested_bytes,
    /// Bytes asked for by requests of 512 bytes or less (counting build only).
    small_bytes,
    /// Highest number of bytes asked for and live (counting build only).
    counted_live_bytes,
}

impl Sample {
    /// The line a worker prints.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = HEAD.to_owned();
        for (name, value) in Self::FIELDS.iter().zip(self.values()) {
            line.push_str(&format!(" {name}={value}"));
        }
        line
    }

    /// Finds the line in what a worker printed.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix(HEAD))?;
        let mut sample = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=')?;
            sample.set(name, value.parse().ok()?)?;
        }
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn a_line_reads_back_as_the_sample_it_was_written_from() {
        let sample =
            Sample { nanos: 1, checksum: u64::MAX, small_requests: 3, ..Sample::default() };
        assert_eq!(Sample::parse(&format!("noise\n{}\n", sample.to_line())), Some(sample));
        assert_eq!(Sample::from_values(&sample.values()), sample);
        assert_eq!(Sample::parse("nothing here"), None);
        assert_eq!(Sample::parse("sample nanos=x"), None);
    }
}
