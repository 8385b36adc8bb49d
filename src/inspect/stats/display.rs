//! The report as text, in the layout of CPython's `sys._debugmallocstats()`: what has the same label means the same.
//!
//! Written without allocating, so that it can be printed from anywhere.

use core::fmt::{self, Display, Formatter};

use super::{ClassStats, Stats};
use crate::base::config::{ARENA_BYTES, CLASS_COUNT, POOL_BYTES, SMALL_MAX_BYTES};

/// Width of a label and of a number, those of CPython's `printone`.
const LABEL_WIDTH: usize = 35;
const NUMBER_WIDTH: usize = 21;

/// A number with a comma after each three digits.
struct Commas(usize);

impl Display for Commas {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // 20 digits and 6 commas at most.
        let mut text = [0_u8; 26];
        let mut place = text.len();
        let (mut rest, mut digits) = (self.0, 0);
        loop {
            if digits > 0 && digits % 3 == 0 {
                place -= 1;
                text[place] = b',';
            }
            place -= 1;
            text[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
            digits += 1;
            if rest == 0 {
                break;
            }
        }
        f.pad(core::str::from_utf8(&text[place..]).unwrap_or_default())
    }
}

fn line(f: &mut Formatter<'_>, label: impl Display, number: usize) -> fmt::Result {
    writeln!(f, "{label:<LABEL_WIDTH$}={:>NUMBER_WIDTH$}", Commas(number))
}

/// `17 unused pools * 32768 bytes` and the like, padded as a label.
struct Product(usize, &'static str, usize, &'static str);

impl Display for Product {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(count, things, bytes, unit) = self;
        let width = digits(*count) + digits(*bytes) + things.len() + unit.len() + " ".len() + " * ".len() + " ".len();
        write!(f, "{count} {things} * {bytes} {unit}{:fill$}", "", fill = f.width().unwrap_or(0).saturating_sub(width))
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Small block threshold = {SMALL_MAX_BYTES}, in {CLASS_COUNT} size classes.\n")?;
        self.fmt_classes(f)?;
        writeln!(f)?;
        self.fmt_arenas(f)?;
        writeln!(f)?;
        self.fmt_bytes(f)?;
        writeln!(f)?;
        self.fmt_beside(f)
    }
}

impl Stats {
    /// The table of classes: five columns of CPython's, then where the available blocks are.
    fn fmt_classes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "class   size   num pools   blocks in use  avail blocks:    cached    remote      free  uncarved")?;
        writeln!(f, "-----   ----   ---------   -------------  ------------  --------  --------  --------  --------")?;
        let classes = self.classes.iter().chain(&self.medium).enumerate();
        for (number, class) in classes.filter(|(_, class)| class.pools > 0) {
            let ClassStats { block_bytes, pools, blocks_live, .. } = *class;
            writeln!(
                f,
                "{number:5} {block_bytes:6} {pools:11} {blocks_live:15} {:13} {:9} {:9} {:9} {:9}",
                class.blocks_available(),
                class.blocks_cached,
                class.blocks_remote,
                class.blocks_free,
                class.blocks_uncarved,
            )?;
        }
        Ok(())
    }

    fn fmt_arenas(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, "# arenas allocated total", self.arenas_ever)?;
        line(f, "# arenas reclaimed", self.arenas_returned)?;
        line(f, "# arenas highwater mark", self.arenas_peak)?;
        line(f, "# arenas allocated current", self.arenas_mapped)?;
        line(f, Product(self.arenas_mapped, "arenas", ARENA_BYTES, "bytes/arena"), self.bytes.arenas)
    }

    /// The parts of the arenas, and their sum.
    fn fmt_bytes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bytes = &self.bytes;
        line(f, "# bytes in allocated blocks", bytes.live)?;
        line(f, "# bytes in available blocks", bytes.remote + bytes.free + bytes.uncarved)?;
        line(f, "# bytes in thread caches", bytes.cached)?;
        line(f, Product(self.pools_unused, "unused pools", POOL_BYTES, "bytes"), bytes.unused_pools)?;
        line(f, Product(self.pools_empty, "empty pools", POOL_BYTES, "bytes"), bytes.empty_pools)?;
        line(f, "# bytes lost to quantization", bytes.tails)?;
        if self.runs_live > 0 {
            line(f, "# bytes in runs of pools", bytes.runs)?;
        }
        line(f, "Total", bytes.sum())
    }

    /// What CPython has not, or elsewhere.
    fn fmt_beside(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, "# bytes of these without memory", self.bytes.untouched)?;
        if let Some(resident) = self.bytes.resident {
            line(f, "# bytes resident, as the OS says", resident)?;
        }
        if let Some(committed) = self.bytes.committed {
            line(f, "# bytes committed, as the OS says", committed)?;
        }
        line(f, "# bytes given back to the OS", self.bytes.returned)?;
        line(f, "# bytes of metadata, mapped", self.bytes.metadata)?;
        line(f, "# thread caches in use", self.caches_live)?;
        line(f, "# thread caches parked", self.caches_parked)?;
        if let Some(system) = &self.system {
            line(f, "# bytes in use, system malloc", system.bytes_live)?;
            line(f, "# bytes free, system malloc", system.bytes_free)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ByteStats;
    use super::*;
    use crate::base::size_class::SizeClass;
    use crate::os::SystemMalloc;

    #[test]
    fn numbers_have_a_comma_after_each_three_digits_and_keep_their_width() {
        for (number, text) in [
            (0, "0"),
            (7, "7"),
            (999, "999"),
            (1000, "1,000"),
            (2_097_152, "2,097,152"),
            (usize::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(Commas(number).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Commas(1234)), "   1,234");
    }

    /// A heap of two classes in use, with no two numbers alike.
    fn example() -> Stats {
        let mut stats = Stats::ZERO;
        for (class, entry) in SizeClass::all().zip(&mut stats.classes) {
            entry.block_bytes = class.block_bytes();
        }
        stats.classes[1] = ClassStats {
            block_bytes: 16,
            pools: 2,
            blocks_live: 3000,
            blocks_cached: 40,
            blocks_remote: 6,
            blocks_free: 50,
            blocks_uncarved: 1000,
        };
        stats.classes[63] = ClassStats { block_bytes: 512, pools: 1, blocks_live: 64, ..ClassStats::default() };
        Stats {
            arenas_mapped: 4,
            arenas_ever: 1010,
            arenas_peak: 12,
            arenas_returned: 1006,
            pools_unused: 250,
            pools_empty: 3,
            caches_live: 2,
            caches_parked: 5,
            bytes: ByteStats {
                arenas: 8_388_608,
                live: 80_768,
                cached: 640,
                remote: 96,
                free: 800,
                uncarved: 16_000,
                tails: 0,
                runs: 0,
                empty_pools: 98_304,
                unused_pools: 8_192_000,
                untouched: 8_000_000,
                resident: Some(3 << 20),
                committed: Some(4 << 20),
                metadata: 1_056_768,
                returned: 2_109_734_912,
            },
            system: Some(SystemMalloc { bytes_live: 97_088, bytes_free: 380 }),
            ..stats
        }
    }

    const EXAMPLE_TEXT: &str = "\
Small block threshold = 512, in 64 size classes.

class   size   num pools   blocks in use  avail blocks:    cached    remote      free  uncarved
-----   ----   ---------   -------------  ------------  --------  --------  --------  --------
    1     16           2            3000          1096        40         6        50      1000
   63    512           1              64             0         0         0         0         0

# arenas allocated total           =                1,010
# arenas reclaimed                 =                1,006
# arenas highwater mark            =                   12
# arenas allocated current         =                    4
4 arenas * 2097152 bytes/arena     =            8,388,608

# bytes in allocated blocks        =               80,768
# bytes in available blocks        =               16,896
# bytes in thread caches           =                  640
250 unused pools * 32768 bytes     =            8,192,000
3 empty pools * 32768 bytes        =               98,304
# bytes lost to quantization       =                    0
Total                              =            8,388,608

# bytes of these without memory    =            8,000,000
# bytes resident, as the OS says   =            3,145,728
# bytes committed, as the OS says  =            4,194,304
# bytes given back to the OS       =        2,109,734,912
# bytes of metadata, mapped        =            1,056,768
# thread caches in use             =                    2
# thread caches parked             =                    5
# bytes in use, system malloc      =               97,088
# bytes free, system malloc        =                  380
";

    #[test]
    fn the_report_is_exactly_this() {
        let mut stats = example();
        assert_eq!(stats.to_string(), EXAMPLE_TEXT);
        stats.system = None;
        let text = EXAMPLE_TEXT.lines().filter(|line| !line.contains("system malloc"));
        assert_eq!(stats.to_string(), text.map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn a_line_of_a_class_begins_as_cpythons_does() {
        // `"%5u %6u %11zu %15zu %13zu"`
        let line = EXAMPLE_TEXT.lines().nth(4).expect("a class");
        assert!(line.starts_with(&format!("{:5} {:6} {:11} {:15} {:13} ", 1, 16, 2, 3000, 1096)));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_brings_back_what_it_took_and_refuses_another_number_of_classes() {
        let stats = example();
        let text = serde_json::to_string(&stats).expect("plain data");
        assert_eq!(serde_json::from_str::<Stats>(&text).expect("the same data"), stats);
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["classes"][1]["blocks_live"], 3000);
        assert_eq!(value["system"]["bytes_free"], 380);
        value["classes"].as_array_mut().expect("an array").pop();
        let refusal = serde_json::from_value::<Stats>(value).expect_err("a class is missing").to_string();
        assert!(refusal.contains("63") && refusal.contains("64 entries"), "{refusal}");
    }

    #[test]
    fn products_are_padded_as_labels_are() {
        for count in [0, 9, 10, 12_345] {
            let product = Product(count, "unused pools", POOL_BYTES, "bytes");
            let text = format!("{count} unused pools * 32768 bytes");
            assert_eq!(format!("{product:<35}"), format!("{text:<35}"));
            assert_eq!(format!("{product}"), text);
        }
    }
}
