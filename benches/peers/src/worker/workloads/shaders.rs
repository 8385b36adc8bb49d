//! A compiler from front to back: shaders.

use crate::measure::{Outcome, measure};
use naga::back::{msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use peers::params::{SHADER_FUNCTIONS, SHADER_ROUNDS, Scale};
use std::fmt::Write as _;

/// Types and bindings that all functions share.
const HEAD: &str = r"
struct Light { position: vec4<f32>, colour: vec3<f32>, radius: f32 }
struct Scene { view: mat4x4<f32>, count: u32, lights: array<Light, 16> }
@group(0) @binding(0) var<uniform> scene: Scene;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> results: array<vec4<f32>>;
@group(0) @binding(3) var picture: texture_2d<f32>;
@group(0) @binding(4) var smooth_sampler: sampler;
";

/// A module of compute shaders, each with a function of its own.
fn shader_source() -> String {
    let mut source = HEAD.to_owned();
    for number in 0..SHADER_FUNCTIONS {
        write!(
            source,
            r"
fn shade_{number}(normal: vec3<f32>, place: vec2<f32>) -> vec4<f32> {{
    var sum = vec4<f32>(0.0, 0.0, 0.0, 1.0);
    for (var index = 0u; index < scene.count; index += 1u) {{
        let light = scene.lights[index % 16u];
        let way = light.position.xyz - normal * {number}.5;
        let far = length(way);
        if far > light.radius {{
            continue;
        }}
        let cosine = max(dot(normalize(way), normal), 0.0) * weights[index + {number}u];
        sum += vec4<f32>(light.colour * cosine / (1.0 + far * far), 0.0);
    }}
    let texel = textureSampleLevel(picture, smooth_sampler, place, 0.0);
    switch u32(sum.x * 3.0) {{
        case 0u: {{ sum = mix(sum, texel, 0.25); }}
        case 1u, 2u: {{ sum = clamp(sum * texel, vec4<f32>(0.0), vec4<f32>(1.0)); }}
        default: {{ sum = pow(abs(sum), vec4<f32>(2.2)); }}
    }}
    return scene.view * sum;
}}
@compute @workgroup_size(8, 8, 1)
fn main_{number}(@builtin(global_invocation_id) id: vec3<u32>) {{
    let place = vec2<f32>(f32(id.x), f32(id.y)) / 512.0;
    let normal = normalize(vec3<f32>(place, {number}.0 + 1.0));
    results[id.x + id.y * 512u] = shade_{number}(normal, place);
}}
"
        )
        .expect("a string grows");
    }
    source
}

/// Reads, checks and translates a module into two languages.
pub fn shaders(scale: Scale) -> Outcome {
    let rounds = scale.of(SHADER_ROUNDS);
    let source = shader_source();
    measure(rounds * SHADER_FUNCTIONS, || {
        let compile = |_| {
            let module = naga::front::wgsl::parse_str(&source).expect("valid WGSL");
            let mut validator = Validator::new(ValidationFlags::all(), Capabilities::default());
            let info = validator.validate(&module).expect("a valid module");
            let words = spv::write_vec(&module, &info, &spv::Options::default(), None);
            let options = msl::Options::default();
            let text =
                msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
            words.expect("SPIR-V").len() as u64 + text.expect("Metal's language").0.len() as u64
        };
        (0..rounds).map(compile).sum()
    })
}
