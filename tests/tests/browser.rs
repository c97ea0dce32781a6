//! Pages in a real browser: what `ingest browse` writes loads without an error, asks no server for
//! anything, draws its figures, fits a phone, and can be filtered; so does what `train report` writes.
//!
//! `just test-browser` installs the browser; without one the tests skip themselves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use datasets::{Modality, Split};
use features::mel::{MEL_BINS, Mel};
use features::{MelDtype, Row, RowContent, ShardSpec, record_batch, writer_properties};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tests::browser::{self, View, Visit};
use tests::{CremaD, EXIT_DONE, command, names, run, temp};
use util::skip::{Missing, skip};

/// A text that would run a script wherever it is not escaped.
const HOSTILE: &str = "</script><img src=x onerror=console.log('hit')>\"'&";

/// The data that all tests of this program share and none writes to.
fn data() -> &'static CremaD {
    static DATA: OnceLock<CremaD> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    DATA.get_or_init(|| CremaD::shared(&folder, 48))
}

/// Whether there is a browser. If not, the calling test is reported as skipped.
#[track_caller]
fn has_browser() -> bool {
    match browser::lacking() {
        Some(reason) => skip(Missing::Platform, reason),
        None => return true,
    }
    false
}

/// Writes pages with `ingest browse`, and returns what it prints.
#[track_caller]
fn browse(shards: &Path, page: &Path, flags: &[&str]) -> Value {
    let mut browse = command("ingest", ["browse", "--json", "--out"]);
    browse.arg(page).arg(shards).args(flags);
    run(&mut browse).expect(EXIT_DONE).json()
}

/// Opens a page at two widths, light and dark, and asserts what holds for every page: no error, no
/// request, all figures drawn, nothing wider than the window.
#[track_caller]
fn check(page: &Path) {
    for view in [View::DESKTOP, View::PHONE] {
        let visit = browser::open(
            page,
            view,
            "await wait(2000);
             tell(document.querySelector('figure[data-kind] svg') !== null);
             document.querySelectorAll('details').forEach((one) => { one.open = true; });
             figures.drawAll(); await wait(1000);
             const figure = (of) => of.querySelector('svg') !== null;
             tell([...document.querySelectorAll('figure[data-kind]')].every(figure));
             tell(document.querySelectorAll('figure[data-kind]').length > 0);
             tell([innerWidth, document.documentElement.scrollWidth]);
             tell(performance.getEntriesByType('resource').map((entry) => entry.name));
             tell([...document.images].every((image) => image.alt));
             tell(getComputedStyle(document.body).backgroundColor);",
        );
        assert_eq!(visit.messages, [""; 0], "{}", page.display());
        assert_eq!(visit.requests, [""; 0], "{}", page.display());
        let [by_itself, drawn, any, widths, resources, described, ground] = &visit.told[..] else {
            panic!("{:?}", visit.told);
        };
        assert_eq!(by_itself, &json!(true), "no figure is drawn by itself");
        assert_eq!(drawn, &json!(true), "a figure is empty");
        assert_eq!(
            widths,
            &json!([view.width, view.width]),
            "it scrolls sideways"
        );
        assert_eq!(resources, &json!([]), "it loads another file");
        assert_eq!(described, &json!(true), "an image has no description");
        assert_eq!(any, &json!(true), "there is no figure");
        // "rgb(21, 22, 25)"
        let ground = ground.as_str().unwrap();
        let red: u32 = ground[4..].split(',').next().unwrap().parse().unwrap();
        assert_eq!(red < 128, view.dark, "{ground}");
    }
}

/// Sets a filter and returns the number of samples that are visible then.
#[track_caller]
fn shown(page: &Path, set: &str) -> Visit {
    let script = format!(
        "const form = document.querySelector('form.filters');
         const set = (name, value) => {{
           form.elements[name].value = value;
           form.dispatchEvent(new Event('input'));
         }};
         const visible = () => [...document.querySelectorAll('article.sample, .list li')]
           .filter((one) => one.checkVisibility()).length;
         {set}"
    );
    let visit = browser::open(page, View::PHONE, &script);
    assert_eq!(visit.messages, [""; 0]);
    visit
}

#[test]
fn one_page_shows_samples_of_each_class() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    let page = folder.path().join("page.html");
    let raw = data().raw().display().to_string();
    let written = browse(&data().shards(), &page, &["--raw", &raw]);
    assert_eq!(written["samples"], written["sounds"]);
    check(&page);
    let visit = shown(
        &page,
        "tell(visible());
         set('split', 'test');
         tell([visible(), document.querySelectorAll('article[data-split=test]').length]);
         set('class', '2');
         tell([...document.querySelectorAll('article:not([hidden])')].map((one) => one.dataset.labels));
         set('id', 'no such id');
         tell([visible(), form.querySelector('output').textContent]);
         set('id', ''); set('class', ''); set('split', '');
         tell(visible());
         const sounds = [...document.querySelectorAll('audio')];
         sounds[0].load(); sounds[0].preload = 'auto';
         await new Promise((done) => { sounds[0].oncanplaythrough = sounds[0].onerror = done; });
         tell([sounds.length, sounds[0].error === null, Math.abs(sounds[0].duration - 2) < 1.5]);",
    );
    let samples = written["samples"].as_u64().unwrap();
    let [all, test, class, none, again, sound] = &visit.told[..] else {
        panic!("{:?}", visit.told);
    };
    assert_eq!([all, again], [&json!(samples), &json!(samples)]);
    assert!(
        test[0] == test[1] && test[0].as_u64().unwrap() > 0,
        "{test}"
    );
    let class = class.as_array().unwrap();
    assert!(
        !class.is_empty() && class.iter().all(|labels| labels == "2"),
        "{class:?}"
    );
    assert_eq!(none, &json!([0, format!("0 of {samples} samples")]));
    assert_eq!(sound, &json!([samples, true, true]));
}

#[test]
fn all_rows_are_on_linked_pages_and_in_the_list() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    let page = folder.path().join("my page.html");
    let written = browse(&data().shards(), &page, &["--all", "--page-size", "7"]);
    let pages: Vec<PathBuf> = written["pages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().into())
        .collect();
    assert_eq!(written["samples"], json!(48));
    assert_eq!(names(&folder.path().join("my page")).len() + 1, pages.len());
    check(&page);
    check(&pages[2]);
    // The links lead to files, and to the sample on them.
    let mut samples = 0;
    for page in &pages {
        let html = fs::read_to_string(page).unwrap();
        for link in html
            .split("href=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
        {
            if link.starts_with("data:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file.replace("%20", " ")),
            };
            let target = fs::read_to_string(&target).unwrap_or_else(|e| panic!("{link}: {e}"));
            assert!(
                anchor.is_empty() || target.contains(&format!("id=\"{anchor}\"")),
                "{link}"
            );
        }
        samples += html.matches("<article").count();
    }
    assert_eq!(samples, 48);
    let visit = shown(
        &page,
        "tell([visible(), form.querySelector('output').textContent]);
         tell([...document.querySelectorAll('.list li a')].map((link) => link.getAttribute('href')));
         set('split', 'train'); set('class', '1');
         tell([...document.querySelectorAll('.list li .note')].map((note) => note.textContent));",
    );
    let [all, links, texts] = &visit.told[..] else {
        panic!("{:?}", visit.told);
    };
    assert_eq!(all, &json!([48, "48 of 48 samples"]));
    for link in links.as_array().unwrap() {
        let (file, anchor) = link.as_str().unwrap().split_once('#').unwrap();
        let html = fs::read_to_string(folder.path().join(file.replace("%20", " "))).unwrap();
        assert!(
            html.contains(&format!("<article class=\"sample\" id=\"{anchor}\"")),
            "{link}"
        );
    }
    let texts = texts.as_array().unwrap();
    assert!(
        !texts.is_empty() && texts.iter().all(|text| text == &texts[0]),
        "{texts:?}"
    );
    // Pages that a run before has written, and this one has not, are gone.
    let fewer = browse(&data().shards(), &page, &["--all", "--page-size", "100"]);
    assert_eq!(
        names(&folder.path().join("my page")).len() + 1,
        fewer["pages"].as_array().unwrap().len()
    );
}

/// The writer of a folder's only shard.
fn shard_writer(folder: &Path, spec: &ShardSpec) -> ArrowWriter<fs::File> {
    let file = fs::File::create(folder.join("train-00000-of-00001.parquet")).unwrap();
    let properties = writer_properties(spec);
    ArrowWriter::try_new(file, spec.arrow_schema(), Some(properties)).unwrap()
}

/// Writes one shard of movies whose ids, texts, classes and errors are hostile.
fn hostile_shards(folder: &Path) {
    let spec = ShardSpec {
        dataset: format!("movies {HOSTILE}"),
        modalities: [Modality::Image, Modality::Text].into(),
        classes: vec![HOSTILE.to_owned(), "Drama".to_owned(), "Comedy".to_owned()],
        multi_label: true,
        mel_dtype: MelDtype::F32,
        frame_pool: 9,
        segment: false,
        tool_version: HOSTILE.to_owned(),
        settings_hash: "00".to_owned(),
    };
    let rows: Vec<Row> = (0..6u32)
        .map(|i| {
            let mut row = Row::new(format!("{HOSTILE}{i}"), Split::Train, vec![0, 1 + i % 2]);
            row.contents[1] = Some(RowContent::Text(HOSTILE.repeat(3)));
            row.source = HOSTILE.to_owned();
            row.error = Some(format!("image: no such file ({HOSTILE}); text: cut short"));
            row
        })
        .collect();
    let mut writer = shard_writer(folder, &spec);
    writer.write(&record_batch(&spec, &rows).unwrap()).unwrap();
    writer.close().unwrap();
}

#[test]
fn hostile_text_stays_text() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    hostile_shards(folder.path());
    let page = folder.path().join("page.html");
    let script = "figures.drawAll(); await wait(500);
        tell([...document.images].length);
        const form = document.querySelector('form.filters');
        form.elements.class.value = '2';
        form.dispatchEvent(new Event('input'));
        tell([...document.querySelectorAll('article.sample, .list li')].filter((one) => one.checkVisibility()).length);
        tell(document.querySelector('h1').textContent);";
    for flags in [&[][..], &["--all"]] {
        browse(folder.path(), &page, flags);
        let visit = browser::open(&page, View::DESKTOP, script);
        assert_eq!(visit.messages, [""; 0], "{flags:?}");
        // In the list all three of the second class, on the page one of each.
        let of_class = if flags.is_empty() { 1 } else { 3 };
        assert_eq!(visit.told[..2], [json!(0), json!(of_class)], "{flags:?}");
        assert!(visit.told[2].as_str().unwrap().contains(HOSTILE));
        check_hostile_pages(&folder.path().join("page"));
    }
}

fn check_hostile_pages(folder: &Path) {
    for name in folder.is_dir().then(|| names(folder)).into_iter().flatten() {
        let visit = browser::open(
            &folder.join(name),
            View::PHONE,
            "tell(document.images.length)",
        );
        assert_eq!(visit.messages, [""; 0]);
        assert_eq!(visit.told, [json!(0)]);
    }
}

/// A page that does what no page may: the checks above would see it.
#[test]
fn console_errors_and_network_requests_are_reported() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    let page = folder.path().join("page.html");
    let html = "<!DOCTYPE html><title>x</title><script>broken(</script>\
                <img src=\"http://127.0.0.1:9/picture.png\"><script>noSuchFunction()</script>";
    fs::write(&page, html).unwrap();
    let visit = browser::open(
        &page,
        View::PHONE,
        "tell(innerWidth); console.warn('careful')",
    );
    assert_eq!(visit.told, [json!(420)]);
    assert_eq!(visit.messages.len(), 3, "{:?}", visit.messages);
    assert!(visit.messages[1].contains("noSuchFunction"));
    assert_eq!(visit.requests, ["http://127.0.0.1:9/picture.png"]);
    assert_eq!(names(folder.path()), ["page.html"]);
}

/// The size that a dataset with 10,000 rows has: the list and a page answer at once.
#[test]
#[ignore = "takes a minute; a measurement"]
fn ten_thousand_rows_do_not_stall() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    many_rows(folder.path(), 10_000);
    let page = folder.path().join("page.html");
    let started = std::time::Instant::now();
    let written = browse(folder.path(), &page, &["--all"]);
    eprintln!("{} bytes in {:.1?}", written["bytes"], started.elapsed());
    for page in [page, folder.path().join("page/train-0001.html")] {
        let visit = browser::open(
            &page,
            View::DESKTOP,
            "await new Promise((done) => addEventListener('load', done));
             await wait(100);
             const form = document.querySelector('form.filters');
             const start = performance.now();
             form.elements.class.value = '1';
             form.dispatchEvent(new Event('input'));
             document.body.getBoundingClientRect();
             const [entry] = performance.getEntriesByType('navigation');
             tell([entry.domInteractive, entry.domComplete, performance.now() - start]);",
        );
        assert_eq!(visit.messages, [""; 0]);
        eprintln!(
            "{}: parsed, loaded, filtered in ms: {:?}",
            page.display(),
            visit.told
        );
        let times = visit.told[0].as_array().unwrap();
        assert!(times[1].as_f64().unwrap() < 10_000.0 && times[2].as_f64().unwrap() < 1_000.0);
    }
}

/// Writes a shard of clips with sound and frames.
fn many_rows(folder: &Path, count: u32) {
    let spec = ShardSpec {
        dataset: "many".to_owned(),
        modalities: [Modality::Audio, Modality::Video].into(),
        classes: (0..28).map(|class| format!("class {class}")).collect(),
        multi_label: false,
        mel_dtype: MelDtype::F16,
        frame_pool: 9,
        segment: false,
        tool_version: "0".to_owned(),
        settings_hash: "00".to_owned(),
    };
    // A real frame, so that its size is real.
    let frame = real_frame();
    let mut writer = shard_writer(folder, &spec);
    for i in 0..count {
        // The first pages have the media of clips of 10 s; more of them would only take time.
        let (class, frames, mel) = match i {
            0..200 => (0, 9, 998),
            _ => (1 + i % 27, 1, 20),
        };
        let mut row = Row::new(format!("clip{i:05}"), Split::Train, vec![class]);
        let value = |k: usize| ((k * 7919 + i as usize) % 1013) as f32 / 100.0 - 9.0;
        let mel = Mel {
            bins: MEL_BINS,
            values: (0..mel * MEL_BINS).map(value).collect(),
        };
        let seconds = Some(10.0);
        row.contents = [
            Some(RowContent::Mel { mel, seconds }),
            Some(RowContent::Frames {
                files: vec![frame.clone(); frames],
                times: (0..frames).map(|k| k as f32).collect(),
                seconds,
            }),
        ];
        writer.write(&record_batch(&spec, &[row]).unwrap()).unwrap();
    }
    writer.close().unwrap();
}

/// Returns a frame of the synthetic CREMA-D.
fn real_frame() -> Vec<u8> {
    let shards = features::Shards::open(&data().shards().into()).unwrap();
    let mut reader = features::shards::RowReader::new(&shards);
    let fetched = reader.fetch(Split::Train, &[0], &[[false, true]]).unwrap();
    match &fetched[0].contents[1] {
        Some(features::shards::Content::Images(frames)) => frames[0].as_slice().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Trains and evaluates a run for reports.
#[track_caller]
fn trained(out: &Path, flags: &[&str]) {
    let arguments = "run crema-d --encoders tiny --random-weights 0 --epochs 2 --batch-size 8";
    let mut train = command("train", arguments.split_whitespace());
    train
        .arg("--shards")
        .arg(data().shards())
        .arg("--out")
        .arg(out);
    run(train.args(flags)).expect(EXIT_DONE);
    for evaluation in [
        "",
        "--missing audio",
        "--missing video",
        "--missing audio --missing-token zeros",
        "--protocol missing-both --rate 0.5",
        "--protocol missing-audio --rate 0.5",
    ] {
        let mut eval = command("train", ["eval"]);
        run(eval.arg(out).args(evaluation.split_whitespace())).expect(EXIT_DONE);
    }
}

#[test]
fn reports_draw_their_figures_in_light_and_dark_on_any_width() {
    if !has_browser() {
        return;
    }
    let folder = temp();
    let runs = ["first", "second", "other"].map(|name| folder.path().join(name));
    trained(&runs[0], &["--seed", "0"]);
    trained(&runs[1], &["--seed", "1"]);
    trained(&runs[2], &["--seed", "0", "--fusion", "concat"]);
    let page = folder.path().join("report.html");
    let report = |runs: &[PathBuf]| {
        let mut report = command("train", ["report", "--out"]);
        let told = run(report.arg(&page).args(runs)).expect(EXIT_DONE).stdout;
        assert!(
            told.ends_with(&format!("report: {}\n", page.display())),
            "{told}"
        );
    };
    for (runs, kinds) in [
        // Curves of three losses and the learning rate, scores, gain and distances per class, three
        // matrices, and a chart of missing rates with a line for each protocol.
        (
            &runs[..2],
            json!({"rates": 1, "curves": 4, "dots": 3, "confusion": 3}),
        ),
        // A chart for each protocol, and the classes of both experiments.
        (
            &runs[..],
            json!({"rates": 3, "curves": 4, "dots": 6, "confusion": 6}),
        ),
    ] {
        report(runs);
        check(&page);
        let visit = browser::open(
            &page,
            View::PHONE,
            "const kinds = {};
             document.querySelectorAll('figure[data-kind]').forEach((figure) => {
               const kind = figure.dataset.kind;
               if (kind !== 'spectrogram') kinds[kind] = (kinds[kind] ?? 0) + 1;
             });
             tell(['rates', 'curves', 'dots', 'confusion'].map((kind) => kinds[kind]));
             tell([...document.querySelectorAll('figure')].every((figure) => figure.getAttribute('aria-label')));
             const wide = (one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth;
             tell([...document.querySelectorAll('table, figure svg')].filter(wide).length);
             figures.drawAll(); await wait(500);
             const names = [...document.querySelectorAll('figure[data-kind=dots]')][0].textContent;
             tell(['Anger', 'Sad'].every((name) => names.includes(name)));
             const point = document.querySelector('figure[data-kind=dots] [aria-label=dot] > *');
             const { x, y } = point.getBoundingClientRect();
             const options = { clientX: x, clientY: y, pointerType: 'mouse', bubbles: true };
             point.closest('svg').dispatchEvent(new PointerEvent('pointermove', options));
             await wait(200);
             const tip = document.querySelector('figure[data-kind=dots] [aria-label=tip]');
             tell(/both: [0-9.]+/.test(tip.textContent));",
        );
        let wanted = ["rates", "curves", "dots", "confusion"].map(|kind| kinds[kind].clone());
        assert_eq!(
            visit.told,
            [
                json!(wanted),
                json!(true),
                json!(0),
                json!(true),
                json!(true)
            ]
        );
    }
    // Without scripts the tables are there.
    let html = fs::read_to_string(&page).unwrap();
    let body = html.split_once("<body>").unwrap().1;
    let text = body.split_once("<script>").unwrap().0;
    assert!(text.contains("<table class=\"scores\">") && text.contains("<noscript>"));
}
