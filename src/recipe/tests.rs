//! Tests of recipes.

use super::*;
use crate::architecture::Architecture::{Aarch64, X86_64};
use crate::error::ExitCode;
use crate::runfile::options::Choice;
use crate::version::DriverVersion;

fn version(text: &str) -> DriverVersion {
    DriverVersion::parse(text).unwrap()
}

fn default() -> Recipe {
    Recipe::shipped("cuda-12-8").unwrap().unwrap()
}

fn with(set: &[&str]) -> Result<Recipe> {
    let settings: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    default().with(&Overrides::from_settings(&settings)?)
}

fn parse(rest: &str) -> Result<Recipe> {
    let text = format!("schema = 1\nname = \"mine\"\ndescription = \"d\"\n{rest}");
    Recipe::parse(&text, "mine.toml")
}

/// The whole text of the error that a recipe leads to.
fn refusal(rest: &str) -> String {
    let error = parse(rest).unwrap_err();
    assert_eq!(error.code(), ExitCode::Input);
    error.to_string()
}

#[test]
fn the_shipped_recipes_are_sound() {
    assert_eq!(Recipe::shipped_names(), ["cuda-12-8", "driver-only", "driver-full"]);
    for name in Recipe::shipped_names() {
        let recipe = Recipe::shipped(name).unwrap().unwrap();
        assert_eq!(recipe.name(), name);
        assert_eq!(recipe.driver_choice(), &DriverChoice::Host);
        assert!(!recipe.description().is_empty());
        assert_eq!(recipe.gpus(), None, "a shipped recipe widens nothing");
    }
    assert!(Recipe::shipped("nothing").is_none());
    assert_eq!(default().packages(), ["cuda-toolkit-12-8", "nvtop"]);
    assert_eq!(default().installer_options(), &Options::default());
    let full = Recipe::shipped("driver-full").unwrap().unwrap();
    assert_eq!(full.installer_options().opengl, Choice::Include);
}

#[test]
fn shipped_files_name_no_hosts_but_nvidias() {
    let shipped = SHIPPED.iter().map(|(_, text)| *text).chain([PINS, REPOSITORIES]);
    for text in shipped {
        for after in text.split("://").skip(1) {
            let host = after.split('/').next().unwrap();
            let known = ["us.download.nvidia.com", "developer.download.nvidia.com"];
            assert!(known.contains(&host), "{host}");
        }
    }
}

#[test]
fn a_pinned_installer_has_digest_size_and_mirrors_in_order() {
    let artifact = default().installer(&version("580.76.05"), X86_64).unwrap();
    assert_eq!(artifact.name, "NVIDIA-Linux-x86_64-580.76.05.run");
    assert_eq!(artifact.size, Some(393_683_997));
    let digest = "219be636b60931b021b2e8c1e0eff887363c731f8a940caa87bcc054d05d97fd";
    assert_eq!(artifact.digest.unwrap().to_string(), digest);
    let urls = [
        "https://us.download.nvidia.com/XFree86/Linux-x86_64/580.76.05/NVIDIA-Linux-x86_64-580.76.05.run",
        "https://us.download.nvidia.com/tesla/580.76.05/NVIDIA-Linux-x86_64-580.76.05.run",
    ];
    assert_eq!(artifact.urls, urls);
}

#[test]
fn architectures_have_pins_of_their_own() {
    let arm = default().installer(&version("590.48.01"), Aarch64).unwrap();
    assert_eq!(arm.size, Some(319_634_379));
    assert!(arm.urls[0].contains("/XFree86/aarch64/590.48.01/NVIDIA-Linux-aarch64-590.48.01.run"));
    assert_eq!(default().installer(&version("580.76.05"), Aarch64).unwrap().digest, None);
}

#[test]
fn a_data_centre_release_lies_elsewhere() {
    let artifact = default().installer(&version("570.133.20"), X86_64).unwrap();
    assert_eq!(artifact.urls.len(), 1);
    assert!(artifact.urls[0].contains("/tesla/"), "{:?}", artifact.urls);
}

#[test]
fn every_pin_is_of_another_file() {
    let file: PinsFile = document::read(PINS, "pins.toml").unwrap();
    assert_eq!(file.pins.len(), 19);
    for (index, pin) in file.pins.iter().enumerate() {
        assert!(!file.pins[..index].iter().any(|other| pin.is_for_the_same_file(other)), "{pin:?}");
    }
}

#[test]
fn pins_of_a_recipe_come_before_the_shared_ones() {
    let sha256 = "0".repeat(64);
    let recipe = parse(&format!(
        "[[driver.pins]]\nversion = \"580.76.05\"\narchitecture = \"x86_64\"\n\
        sha256 = \"{sha256}\"\nsize = 1\n"
    ));
    let artifact = recipe.unwrap().installer(&version("580.76.05"), X86_64).unwrap();
    assert_eq!((artifact.size, artifact.digest.unwrap().to_string()), (Some(1), sha256));
}

#[test]
fn urls_of_a_recipe_take_the_place_of_the_shared_ones() {
    let recipe = parse("[driver.urls]\nx86_64 = [\"http://a/{version}.run\", \"/b/{version}\"]\n");
    let recipe = recipe.unwrap();
    let urls = |arch| recipe.installer(&version("1.2"), arch).unwrap().urls;
    assert_eq!(urls(X86_64), ["http://a/1.2.run", "/b/1.2"]);
    assert!(urls(Aarch64)[0].starts_with("https://us.download.nvidia.com/"));
}

#[test]
fn a_misspelled_key_is_told_with_line_and_nearest_key() {
    let text = refusal("[drvier]\nversion = \"host\"\n");
    assert!(text.contains("`mine.toml`"), "{text}");
    assert!(text.contains("unknown key `drvier` at line 4, did you mean `driver`?"), "{text}");
    let text = refusal("[driver]\nverson = \"host\"\n");
    assert!(text.contains("unknown key `verson` at line 5, did you mean `version`?"), "{text}");
    let text = refusal("[driver.installer]\nopengl = \"exlude\"\n");
    assert!(text.contains("unknown value `exlude` at line 5, did you mean `exclude`?"), "{text}");
    let text = refusal("[checks]\nrun = [\"nvidia_smi\"]\n");
    assert!(text.contains("unknown value `nvidia_smi` at line 5, did you mean `nvidia-smi`?"));
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    for rest in [
        "zebra = 1\n",
        "[driver]\nzebra = 1\n",
        "[driver.installer]\nzebra = 1\n",
        "[driver.urls]\nzebra = []\n",
        "[[driver.pins]]\nzebra = 1\n",
        "[repository.x]\nzebra = 1\n",
        "[packages]\nzebra = 1\n",
        "[passthrough]\nzebra = 1\n",
        "[checks]\nzebra = 1\n",
    ] {
        assert!(refusal(rest).contains("`zebra` at line "), "{rest}: {}", refusal(rest));
    }
}

#[test]
fn malformed_values_are_refused_with_their_line() {
    for (rest, what) in [
        (
            "[driver]\nversion = \"580\"\n",
            "`580` is neither `host` nor an NVIDIA driver version at line 5",
        ),
        ("[driver\n", "at line 4"),
        ("[packages]\ninstall = [\"-o\"]\n", "`-o`: it is not a package name"),
        ("[packages]\ninstall = [\"cuda\"]\n", "`cuda`: the recipe denies it"),
        ("[passthrough]\ngpus = \"0,,1\"\n", "GPU assignment `0,,1`"),
        ("[driver.installer]\nextra = [\"--a b\"]\n", "`--a b`"),
        ("[driver.urls]\nx86_64 = [\"ftp://a\"]\n", "`ftp://a`"),
    ] {
        assert!(refusal(rest).contains(what), "{rest}: {}", refusal(rest));
    }
}

#[test]
fn another_schema_is_refused_before_its_keys_are_looked_at() {
    for (text, what) in [
        ("schema = 2\nnew = 1\n", "its schema is 2; this nvstage reads 1"),
        ("name = \"x\"\n", "it does not say `schema = 1`"),
    ] {
        let error = Recipe::parse(text, "x").unwrap_err();
        assert_eq!(error.causes(), [what]);
    }
}

#[test]
fn the_repository_of_each_distribution_has_its_own_key() {
    let repository = default().repository("debian12", X86_64).unwrap();
    let url = "https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/";
    assert_eq!(repository.url, url);
    assert_eq!(repository.key_url, format!("{url}3bf863cc.pub"));
    let fingerprint = |name| default().repository(name, X86_64).unwrap().fingerprint.to_string();
    assert_eq!(fingerprint("ubuntu2404"), "EB693B3035CD5710E231E123A4B469963BF863CC");
    assert_eq!(fingerprint("debian13"), "02182E60104FCDC26EAE1B8597A5D4CB8793F200");
    let arm = default().repository("ubuntu2404", Aarch64).unwrap();
    assert!(arm.url.ends_with("/ubuntu2404/sbsa/"), "{}", arm.url);
}

#[test]
fn an_unknown_distribution_is_refused_with_the_known_ones() {
    let error = default().repository("alpine320", X86_64).unwrap_err();
    assert_eq!(error.code(), ExitCode::Input);
    assert_eq!(error.hints()[0], "it knows debian12, debian13, ubuntu2204, ubuntu2404");
    let error = default().repository("debian13", Aarch64).unwrap_err();
    assert!(error.what().contains("none of it for aarch64"), "{error}");
}

#[test]
fn a_recipe_without_packages_needs_no_distribution() {
    assert_eq!(default().distributions(Aarch64), ["debian12", "ubuntu2204", "ubuntu2404"]);
    let bare = Recipe::shipped("driver-only").unwrap().unwrap();
    assert!(bare.distributions(X86_64).is_empty());
}

#[test]
fn settings_take_the_place_of_the_recipes_values() {
    let recipe = with(&[
        "driver=580.76.05",
        "packages= cuda-toolkit-12-8 , htop",
        "repository.url=http://mirror/cuda/{distribution}/{arch}",
        "installer.url=/srv/NVIDIA-Linux-{arch}-{version}.run",
    ])
    .unwrap();
    assert_eq!(recipe.driver_choice(), &DriverChoice::Exactly(version("580.76.05")));
    assert_eq!(recipe.packages(), ["cuda-toolkit-12-8", "htop"]);
    let repository = recipe.repository("debian12", Aarch64).unwrap();
    assert_eq!(repository.url, "http://mirror/cuda/debian12/sbsa/");
    assert_eq!(repository.key_url, "http://mirror/cuda/debian12/sbsa/3bf863cc.pub");
    let artifact = recipe.installer(&version("580.76.05"), X86_64).unwrap();
    assert_eq!(artifact.urls, ["/srv/NVIDIA-Linux-x86_64-580.76.05.run"]);
    assert!(artifact.digest.is_some());
    assert!(with(&["packages="]).unwrap().packages().is_empty());
    let kept = ["driver=580.76.05", "packages=cuda-toolkit-12-8,htop"];
    assert!(kept.iter().all(|setting| recipe.settings().iter().any(|known| known == setting)));
    let back = ["driver=host", "installer.url=", "repository.url="].map(str::to_owned);
    let recipe = recipe.with(&Overrides::from_settings(&back).unwrap()).unwrap();
    assert_eq!(recipe.settings(), ["packages=cuda-toolkit-12-8,htop"]);
    assert_eq!(recipe.driver_choice(), &DriverChoice::Host);
    assert!(
        recipe.installer(&version("580.76.05"), X86_64).unwrap().urls[0].contains("nvidia.com")
    );
}

#[test]
fn malformed_settings_are_refused() {
    for (setting, what) in [
        ("driver", "it has no `=`"),
        ("drvier=host", "did you mean `driver`?"),
        ("zebra=x", "known are `driver`"),
        ("driver=", "read `` as an NVIDIA driver version"),
        ("driver=latest", "read `latest` as an NVIDIA driver version"),
        ("packages=a b", "not a package name"),
        ("packages=cuda-drivers", "the recipe denies it"),
        ("repository.url=/srv", "as a URL"),
        ("repository.url=http://a/ [trusted=yes]", "as a URL"),
        ("installer.url=x", "as a URL"),
    ] {
        let error = with(&[setting]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        let text = error.to_string();
        assert!(text.contains(what), "{setting}: {text}");
    }
}

#[test]
fn an_installer_of_another_version_or_architecture_is_refused() {
    let wanted = version("580.76.05");
    for name in ["NVIDIA-Linux-x86_64-580.95.05.run", "NVIDIA-Linux-aarch64-580.76.05.run"] {
        let recipe = with(&[&format!("installer.url=https://a/{name}?x=1")]).unwrap();
        let error = recipe.installer(&wanted, X86_64).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(name), "{error}");
    }
    let other_form = with(&["installer.url=https://a/driver.run"]).unwrap();
    assert!(other_form.installer(&wanted, X86_64).unwrap().digest.is_some());
}

#[test]
fn the_variant_without_32_bit_libraries_is_not_the_pinned_file() {
    let name = "NVIDIA-Linux-x86_64-580.76.05-no-compat32.run";
    let recipe = with(&[&format!("installer.url=https://a/{name}")]).unwrap();
    let artifact = recipe.installer(&version("580.76.05"), X86_64).unwrap();
    assert_eq!((artifact.name.as_str(), artifact.size, artifact.digest), (name, None, None));
}

#[test]
fn a_repository_for_another_distribution_or_architecture_is_refused() {
    let base = "https://developer.download.nvidia.com/compute/cuda/repos";
    for path in ["ubuntu2404/x86_64/", "ubuntu2004/x86_64", "debian12/sbsa/"] {
        let recipe = with(&[&format!("repository.url={base}/{path}")]).unwrap();
        let error = recipe.repository("debian12", X86_64).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(path), "{error}");
    }
    for url in [&format!("{base}/debian12/x86_64"), "http://mirror.debian12.lan/cuda/"] {
        let recipe = with(&[&format!("repository.url={url}")]).unwrap();
        assert!(recipe.repository("debian12", X86_64).is_ok(), "{url}");
    }
}
