//! UPMC Food-101: the publisher's tar.gz, or the zip of Kaggle.

use std::collections::BTreeSet;

use datasets::sources::FOOD_101_KAGGLE;

use super::kaggle;
use super::lists;
use super::pairs::Pairs;
use super::run::{Finding, Report, Run, first_working};
use super::zipped::{self, Chooser};
use crate::archive::names::base;
use crate::archive::record::Record;
use crate::archive::tar::Member;
use crate::archive::unpack::Choice;
use crate::archive::zip;
use crate::client::Request;
use crate::error::{Error, Kind};
use crate::origin::{Base, Remote};

const ARCHIVE: &str = "UPMC_Food101.tar.gz";
const ZIP: &str = "upmcfood101.zip";

/// Fetches the dataset, from Kaggle if the user says so.
///
/// # Errors
/// The archive cannot be fetched, is damaged or hostile; Kaggle's account is missing.
pub fn fetch(run: &Run) -> Result<Report, Error> {
    let is_server = |place: &Base| matches!(place, Base::Server(_));
    let record = match run.from {
        Some("kaggle")
            if run.bases("kaggle").iter().all(is_server) && kaggle::authorization().is_none() =>
        {
            let missing = vec![Finding {
                what: FOOD_101_KAGGLE.to_owned(),
                why: kaggle::HOW.to_owned(),
            }];
            return Ok(Report { files: 0, missing });
        }
        Some("kaggle") => fetch_zip(run)?,
        _ => fetch_tar(run).map_err(|error| match error.kind {
            Kind::NotFound | Kind::Temporary(_) | Kind::Denied => error.with_advice(
                "this server has been gone for long at a time; Kaggle has images and titles: --from kaggle",
            ),
            _ => error,
        })?,
    };
    Ok(Report {
        files: record.kept.len(),
        missing: Vec::new(),
    })
}

fn fetch_tar(run: &Run) -> Result<Record, Error> {
    first_working(run, &run.bases("publisher"), |place| {
        let mut dishes = Pairs::default();
        run.unpack(&place.file(ARCHIVE), ARCHIVE, &mut |member, record| {
            choose_of_tar(run, &mut dishes, member, record)
        })
    })
}

/// Keeps images and their texts. With `--limit` it ends when so many have both; the others, which lie
/// far from each other in the archive, are kept too.
fn choose_of_tar(run: &Run, dishes: &mut Pairs, member: &Member, record: &Record) -> Choice {
    let path = &member.path;
    let is_wanted = match path.rsplit_once('.') {
        Some((_, "jpg")) => path.contains("images/"),
        Some((_, "txt")) => path.contains("texts_txt/"),
        _ => false,
    };
    if !is_wanted {
        return Choice::Skip;
    }
    if let Some(limit) = run.limit {
        dishes.read(record);
        if dishes.complete() >= limit {
            return Choice::Stop;
        }
        dishes.add(path);
    }
    Choice::Keep(path.clone())
}

fn fetch_zip(run: &Run) -> Result<Record, Error> {
    let mut remote = || {
        first_working(run, &run.bases("kaggle"), |place| match place {
            Base::Folder(_) => Ok(place.file(ZIP)),
            Base::Server(address) => {
                let url = format!("{address}/api/v1/datasets/download/{FOOD_101_KAGGLE}");
                let Some(authorization) = kaggle::authorization() else {
                    return Err(Error::new(&url, Kind::Denied, kaggle::HOW));
                };
                let request = Request::get(url).header("authorization", authorization);
                Ok(Remote::Request(request))
            }
        })
    };
    let record = zipped::fetch(run, ZIP, &mut remote, &|zip| {
        let images: BTreeSet<String> = match run.limit {
            None => BTreeSet::new(),
            Some(limit) => {
                let of = |split: &str| {
                    let inside = format!("images/{split}/");
                    let mut paths = zip::paths(zip)?;
                    paths.retain(|path| path.contains(&inside));
                    paths.sort();
                    Ok::<_, Error>(paths)
                };
                lists::choose(&[of("train")?, of("test")?], limit)
            }
        };
        let all = run.limit.is_none();
        Ok(Box::new(move |member: &Member| {
            choose_of_zip(member, &|path| all || images.contains(path))
        }) as Chooser)
    })
    .map_err(|error| match error.kind {
        Kind::Denied if kaggle::authorization().is_some() => error.with_advice(&format!(
            "your token was refused: it is wrong or has expired. {}",
            kaggle::HOW
        )),
        Kind::Denied => error.with_advice(kaggle::HOW),
        _ => error,
    })?;
    let names: BTreeSet<&str> = record.kept.keys().map(|path| base(path)).collect();
    let stems: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".jpg"))
        .collect();
    lists::publish(run, &record, &|line| {
        // A row begins with the image, whose name may end in `.txt`.
        let name = line.split(',').next().unwrap_or_default().trim_matches('"');
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        run.limit.is_none() || stems.contains(stem)
    })?;
    Ok(record)
}

fn choose_of_zip(member: &Member, is_wanted: &dyn Fn(&str) -> bool) -> Option<String> {
    let (_, extension) = member.path.rsplit_once('.')?;
    match extension {
        "csv" | "json" | "jsonl" | "txt" => Some(format!("{}{}", lists::ORIGINALS, member.path)),
        _ if base(&member.path).starts_with('.') => None,
        _ => is_wanted(&member.path).then(|| member.path.clone()),
    }
}
