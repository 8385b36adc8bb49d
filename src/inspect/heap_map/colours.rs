//! The colours of the picture: one a class, and lighter the fewer blocks are live.

use core::fmt;

use crate::base::config::{MEDIUM_MAX_BYTES, SMALL_MAX_BYTES};

/// Red, green and blue, 0 to 255 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Colour(pub(super) [u8; 3]);

/// Of classes of 8, 16, 32, 64, 128, 256 and 512 bytes; those in between are mixed, because most programs use many
/// small classes and few large ones.
const ANCHORS: [Colour; 7] = [
    Colour([0x5b, 0x3f, 0xb0]),
    Colour([0x2b, 0x6c, 0xd4]),
    Colour([0x0e, 0x93, 0xa6]),
    Colour([0x2f, 0x9e, 0x54]),
    Colour([0xd1, 0x98, 0x12]),
    Colour([0xe0, 0x67, 0x22]),
    Colour([0xc4, 0x2b, 0x57]),
];

/// Of 32,768 bytes: medium classes are mixed from that of 512 and this.
const LARGEST: Colour = Colour([0x33, 0x2a, 0x48]);

const PAPER: Colour = Colour([0xff, 0xff, 0xff]);

/// Steps of fullness that are told apart: pools of one step and class are one path of the drawing.
pub(super) const STEPS: usize = 8;

/// The share that a step of fullness keeps of its class's colour.
const WEAKEST: f64 = 0.2;

impl Colour {
    /// The colour of a class.
    pub(super) fn of_class(block_bytes: usize) -> Self {
        if block_bytes > SMALL_MAX_BYTES {
            let doublings = (MEDIUM_MAX_BYTES as f64 / SMALL_MAX_BYTES as f64).log2();
            let share = (block_bytes as f64 / SMALL_MAX_BYTES as f64).log2() / doublings;
            return ANCHORS[ANCHORS.len() - 1].mixed(LARGEST, share.min(1.0));
        }
        let place = (block_bytes.max(8) as f64 / 8.0).log2().min((ANCHORS.len() - 1) as f64);
        let below = (place as usize).min(ANCHORS.len() - 2);
        ANCHORS[below].mixed(ANCHORS[below + 1], place - below as f64)
    }

    /// The colour of a pool of a class, at a step of fullness from 0 to `STEPS`.
    pub(super) fn at_step(self, step: usize) -> Self {
        PAPER.mixed(self, WEAKEST + (1.0 - WEAKEST) * step.min(STEPS) as f64 / STEPS as f64)
    }

    fn mixed(self, other: Self, share: f64) -> Self {
        let Self(mut mixed) = self;
        for (part, other) in mixed.iter_mut().zip(other.0) {
            *part = (f64::from(*part) * (1.0 - share) + f64::from(other) * share).round() as u8;
        }
        Self(mixed)
    }
}

/// The step of a share of live blocks: 0 only if none is, the last only if all are.
pub(super) fn step_of(fullness: f64) -> usize {
    if fullness >= 1.0 {
        STEPS
    } else if fullness <= 0.0 {
        0
    } else {
        ((fullness * STEPS as f64) as usize).clamp(1, STEPS - 1)
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([red, green, blue]) = self;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::size_class::SizeClass;

    #[test]
    fn every_class_has_a_colour_of_its_own_and_powers_of_two_have_the_anchors() {
        let colours: Vec<_> = SizeClass::all().map(|class| Colour::of_class(class.block_bytes())).collect();
        for (number, colour) in colours.iter().enumerate() {
            assert!(!colours[..number].contains(colour), "class {number}: {colour}");
        }
        for (power, anchor) in ANCHORS.into_iter().enumerate() {
            assert_eq!(Colour::of_class(8 << power), anchor);
        }
    }

    #[test]
    fn steps_go_from_none_to_all() {
        assert_eq!((step_of(0.0), step_of(1.0)), (0, STEPS));
        assert_eq!((step_of(0.000_1), step_of(0.999_9)), (1, STEPS - 1));
        let full = Colour::of_class(64);
        assert_eq!(full.at_step(STEPS), full);
        assert!((0..STEPS).all(|step| full.at_step(step) != full.at_step(step + 1)));
        assert_eq!(full.to_string(), "#2f9e54");
    }
}
