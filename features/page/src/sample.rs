//! What a sample holds, as a person would look at it.

use crate::data_url::data_url;
use crate::problems::problems;
use crate::spectrogram::Spectrogram;
use datasets::{InputName, Modality, View};
use features::shards::Content;
use maud::{Markup, html};
use media::image::{decode, shrink_to_jpeg};

/// The shorter side of a frame on a page, in pixels; shards hold up to 256.
const FRAME_SIDE: usize = 128;
/// The shorter side of an image on a page, in pixels; shards hold up to 256.
const IMAGE_SIDE: usize = 224;
/// The JPEG quality of frames and images on a page. A frame takes about 5 kB.
const QUALITY: u8 = 80;

/// The characters of a text that are shown.
const MAX_CHARACTERS: usize = 3000;

/// A sample's inputs.
pub struct Sample<'a> {
    /// The id, for the descriptions of pictures.
    pub id: &'a str,
    /// Its inputs, in the order of the dataset.
    pub inputs: Vec<SampleInput<'a>>,
    /// The column `error`: why an input is missing, or there in part only.
    pub error: Option<&'a str>,
}

/// An input of a sample, with what is known beside its content.
#[derive(Clone, Copy)]
pub struct SampleInput<'a> {
    /// The name of the input.
    pub name: InputName,
    /// What it holds.
    pub content: Input<'a>,
    /// The time of each frame of a video in seconds from its start.
    pub frame_times: &'a [f32],
    /// The decoded duration in seconds, of audio and video.
    pub seconds: Option<f32>,
}

/// Returns the CSS colour that stands for an input in figures. The second of two views has the
/// colour of another modality, so that they can be told apart.
pub fn input_colour(input: InputName) -> &'static str {
    let other = |modality| match modality {
        Modality::Audio | Modality::Image => Modality::Text,
        Modality::Video | Modality::Text => Modality::Audio,
    };
    let modality = match input.view {
        Some(View::B) => other(input.modality),
        _ => input.modality,
    };
    match modality {
        Modality::Audio => "var(--audio)",
        Modality::Video => "var(--video)",
        Modality::Image => "var(--image)",
        Modality::Text => "var(--text-modality)",
    }
}

/// The content of an input.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// What the shard holds.
    Present(&'a Content),
    /// Nothing. Says why, where the column `error` does not, such as "hidden by the mask".
    Missing(Option<&'a str>),
}

impl Sample<'_> {
    /// Returns the inputs one below the other, those that are missing with the reason.
    pub fn markup(&self) -> Markup {
        let problems = problems(self.error.unwrap_or_default());
        html! {
            @for input in &self.inputs {
                @let own: Vec<&str> = problems
                    .iter()
                    .filter(|(of, _)| *of == input.name)
                    .map(|(_, problem)| *problem)
                    .collect();
                div.input data-modality=(input.name.modality) {
                    (self.input(input, &own))
                }
            }
        }
    }

    fn input(&self, input: &SampleInput, problems: &[&str]) -> Markup {
        let content = match input.content {
            Input::Missing(reason) => {
                let reasons: Vec<&str> =
                    reason.into_iter().chain(problems.iter().copied()).collect();
                return html! {
                    p.head { (badge(input.name, false)) }
                    p.reason {
                        @if reasons.is_empty() { "the publisher provides none" }
                        @else { (reasons.join("; ")) }
                    }
                };
            }
            Input::Present(content) => content,
        };
        html! {
            p.head {
                (badge(input.name, true))
                @if let Some(seconds) = input.seconds { " " span.note { (format!("{seconds:.2} s")) } }
            }
            @match content {
                Content::Mel(mel) => (self.spectrogram(mel)),
                Content::Images(files) if input.name.modality == Modality::Video => {
                    (frames(files, input.frame_times))
                }
                Content::Images(images) => {
                    @for image in images {
                        (picture(image, IMAGE_SIDE, &format!("Image of sample {}", self.id)))
                    }
                }
                Content::Text(text) => (quoted(text)),
            }
            @for problem in problems { p.reason { (problem) } }
        }
    }

    fn spectrogram(&self, mel: &media::mel::Mel) -> Markup {
        let label = format!("Log-mel spectrogram of sample {}", self.id);
        html! {
            @match Spectrogram::new(mel) {
                Some(spectrogram) => (spectrogram.markup(&label)),
                None => p.reason { "the spectrogram holds values that are not finite" },
            }
        }
    }
}

/// Returns the frames of a video with their times.
fn frames(frames: &[impl AsRef<[u8]>], times: &[f32]) -> Markup {
    html! {
        ol.frames {
            @for (i, frame) in frames.iter().enumerate() {
                @let time = times.get(i).map(|time| format!("{time:.2} s"));
                @let alt = match &time {
                    Some(time) => format!("Frame at {time}"),
                    None => format!("Frame {}", i + 1),
                };
                li {
                    (picture(frame.as_ref(), FRAME_SIDE, &alt))
                    @if let Some(time) = time { span.note { (time) } }
                }
            }
        }
    }
}

/// Returns a badge in the modality's colour; that of a missing input is hollow and says so.
fn badge(name: InputName, present: bool) -> Markup {
    html! {
        @if present { span.badge data-modality=(name.modality) { (name) } }
        @else { span.badge.missing data-modality=(name.modality) { "no " (name) } }
    }
}

/// Returns an image, made smaller for the page.
fn picture(jpeg: &[u8], side: usize, alt: &str) -> Markup {
    let small = decode(jpeg).and_then(|image| {
        Ok((
            shrink_to_jpeg(&image, side, QUALITY)?,
            image.width,
            image.height,
        ))
    });
    html! {
        @match small {
            // With its size, so that nothing moves when it is loaded.
            Ok((small, width, height)) => img alt=(alt) width=(width) height=(height)
                loading="lazy" decoding="async" src=(data_url("image/jpeg", &small));,
            Err(error) => span.reason { (alt) ": " (error.to_string()) },
        }
    }
}

/// Returns a text, cut where it is very long.
fn quoted(text: &str) -> Markup {
    let end = text.char_indices().nth(MAX_CHARACTERS).map(|(at, _)| at);
    html! {
        // A box that scrolls must be reachable by the keyboard.
        blockquote.text tabindex="0" { (&text[..end.unwrap_or(text.len())]) @if end.is_some() { "…" } }
        @if end.is_some() {
            p.note { "The first " (MAX_CHARACTERS) " of " (text.chars().count()) " characters." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::image::{PixelFormat, encode_jpeg};
    use media::mel::{MEL_BINS, Mel};

    const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\"'&";

    fn jpeg(width: usize, height: usize) -> Vec<u8> {
        let pixels = vec![90; 3 * width * height];
        encode_jpeg(&pixels, width, height, PixelFormat::Rgb, 95).unwrap()
    }

    fn input(modality: Modality, content: Input) -> SampleInput {
        SampleInput {
            name: modality.into(),
            content,
            frame_times: &[],
            seconds: None,
        }
    }

    #[test]
    fn frames_are_in_order_with_their_times() {
        let frames = Content::Images((0..3).map(|_| jpeg(340, 256).into()).collect());
        let mel = Content::Mel(Mel {
            bins: MEL_BINS,
            values: vec![0.5; 50 * MEL_BINS],
        });
        let html = Sample {
            id: "clip",
            inputs: vec![
                SampleInput {
                    seconds: Some(0.5),
                    ..input(Modality::Audio, Input::Present(&mel))
                },
                SampleInput {
                    frame_times: &[0.5, 1.25, 2.0],
                    seconds: Some(2.5),
                    ..input(Modality::Video, Input::Present(&frames))
                },
            ],
            error: Some("audio: cut short (0.5 s of 2.5 s)"),
        }
        .markup()
        .into_string();
        let places = [
            "alt=\"Frame at 0.50 s\"",
            "alt=\"Frame at 1.25 s\"",
            "alt=\"Frame at 2.00 s\"",
        ]
        .map(|alt| html.find(alt).unwrap());
        assert!(places.is_sorted(), "{places:?}");
        assert!(html.contains("data-kind=\"spectrogram\""));
        assert!(html.contains("cut short (0.5 s of 2.5 s)"));
        assert!(html.contains("width=\"340\" height=\"256\""));
        // The picture itself is smaller: its shorter side is 128.
        let small = html.split("data:image/jpeg;base64,").nth(2).unwrap();
        assert!(small.find('"').unwrap() < 4000);
    }

    #[test]
    fn missing_inputs_give_their_reason() {
        let text = Content::Text("a film".to_owned());
        let sample = |error, reason| {
            Sample {
                id: "1",
                inputs: vec![
                    input(Modality::Image, Input::Missing(reason)),
                    input(Modality::Text, Input::Present(&text)),
                ],
                error,
            }
            .markup()
            .into_string()
        };
        let html = sample(Some("image: no such file (1.jpeg)"), None);
        assert!(html.contains("no image") && html.contains("no such file (1.jpeg)"));
        assert!(sample(None, Some("hidden by the mask")).contains("hidden by the mask"));
        assert!(sample(None, None).contains("the publisher provides none"));
    }

    #[test]
    fn hostile_text_is_escaped() {
        let text = Content::Text(HOSTILE.repeat(200));
        let broken = Content::Images(vec![vec![1, 2, 3].into()]);
        let error = format!("image: {HOSTILE}");
        let html = Sample {
            id: HOSTILE,
            inputs: vec![
                input(Modality::Image, Input::Present(&broken)),
                input(Modality::Text, Input::Present(&text)),
            ],
            error: Some(&error),
        }
        .markup()
        .into_string();
        assert!(
            !html.contains("<img") && !html.contains("</script"),
            "{html}"
        );
        assert!(html.contains(&format!("of {} characters", HOSTILE.len() * 200)));
    }
}
