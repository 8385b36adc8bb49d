//! Programs that work on pictures.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use peers::params::{
    SEED, Scale, THUMBNAIL_PICTURES, THUMBNAIL_ROUNDS, THUMBNAIL_SIDE, THUMBNAIL_SIDES,
};
use std::io::Cursor;

fn png(picture: &DynamicImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).expect("memory takes it");
    file.into_inner()
}

/// Gradients with a little noise, every third one with transparency.
fn picture(random: &mut Random, number: usize) -> DynamicImage {
    let [width, height] = [(); 2].map(|()| random.between(THUMBNAIL_SIDES) as u32);
    let mut colours = |x: u32, y: u32| {
        let noise = random.below(4) as u32;
        [x * 255 / width, y * 255 / height, (x + y) / 4 + noise].map(|colour| colour as u8)
    };
    if number.is_multiple_of(3) {
        let pixel = |x, y| {
            let [red, green, blue] = colours(x, y);
            Rgba([red, green, blue, if x < y { 255 } else { 128 }])
        };
        RgbaImage::from_fn(width, height, pixel).into()
    } else {
        RgbImage::from_fn(width, height, |x, y| Rgb(colours(x, y))).into()
    }
}

/// PNG files in, small PNG files out.
pub fn thumbnails(scale: Scale) -> Outcome {
    let rounds = scale.of(THUMBNAIL_ROUNDS);
    let mut random = Random::new(SEED);
    let files: Vec<Vec<u8>> =
        (0..THUMBNAIL_PICTURES).map(|number| png(&picture(&mut random, number))).collect();
    measure(rounds * THUMBNAIL_PICTURES, || {
        let thumbnail = |file: &Vec<u8>| {
            let picture = image::load_from_memory(file).expect("its own");
            let small = picture.resize(THUMBNAIL_SIDE, THUMBNAIL_SIDE, FilterType::Triangle);
            let file = png(&small);
            let pixels: u64 = small.as_bytes().iter().map(|&byte| u64::from(byte)).sum();
            file.len() as u64 + pixels
        };
        (0..rounds).flat_map(|_| &files).map(thumbnail).sum()
    })
}
