//! A container whose driver and CUDA are changed from one way to another and back.

use super::{Host, Kind, Nodes, Run, Site, VERSION};

/// The container, its host, and where files come from.
pub struct Scene {
    pub host: Host,
    pub site: Site,
    pub ctid: String,
}

impl Scene {
    /// A container that was provisioned like this; the cache has everything for the other ways.
    pub fn new(way: &[&str]) -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let ctid = host.container("privileged", &[&site.distribution()]);
        host.start(&ctid);
        host.run(&["prefetch", "--recipe", &site.recipe(), "--for", &ctid]).code(0);
        let scene = Self { host, site, ctid };
        scene.go(way).code(0);
        scene
    }

    /// The command that provisions the container like this.
    pub fn arguments(&self, way: &[&str]) -> Vec<String> {
        let recipe = self.site.recipe();
        let own =
            ["--json", "provision", "--start", &self.ctid, "--gpus", "0", "--recipe", &recipe];
        own.iter().chain(way).map(|word| (*word).to_owned()).collect()
    }

    /// Provisions the container like this.
    pub fn go(&self, way: &[&str]) -> Run {
        self.host.run(&refs(&self.arguments(way)))
    }

    /// Everything of the container that a run may change.
    pub fn state(&self) -> String {
        let inside = "dpkg-query -W -f '${Package} ${Status}\\n' | grep -E 'cuda|nvtop|libcu|libnv' | grep -v ' not-installed'
            dpkg --audit; ls /var/lib/dpkg/updates
            ls -d /usr/lib/nvstage /usr/lib/nvstage/* /etc/ld.so.conf.d/nvstage.conf /etc/systemd/system/nvstage-* \
                /etc/systemd/system/sysinit.target.wants/nvstage-* /var/lib/nvstage /root/.nvstage* /var/lib/nvidia/log 2>/dev/null
            for link in /usr/local/cuda /usr/local/cuda-12 /usr/bin/nvidia-smi; do echo $link $(readlink $link); done
            ldconfig -p | grep -E 'libcuda.so|libnvidia-ml|libcudart' | sed 's/^[[:space:]]*//' | sort
            awk '/nvstage|cuda/ {print $2, $3}' /proc/mounts | sort
            cat /etc/ld.so.conf.d/nvstage.conf 2>/dev/null; true";
        let path = self.host.path(&format!("/var/lib/nvstage/containers/{}.json", self.ctid));
        let text = std::fs::read_to_string(path).unwrap();
        let mut journal: serde_json::Value = serde_json::from_str(&text).unwrap();
        journal.as_object_mut().unwrap().remove("last_run");
        let packages = journal["packages"].as_array_mut().unwrap();
        packages.sort_by_key(|name| name.as_str().unwrap().to_owned());
        let seen = self.host.inside(&self.ctid, inside).code(0).stdout;
        format!("{}\n{journal:#}\n{seen}", self.host.config(&self.ctid))
    }

    /// A power failure of the container, if it runs.
    pub fn cut_power(&self) {
        if self.host.init(&self.ctid) != 0 {
            self.host.shell(&format!("lxc-stop -k -n {}", self.ctid)).code(0);
        }
    }

    /// The command ends in this state, and run again changes nothing.
    #[track_caller]
    pub fn ends(&self, way: &[&str], wanted: &str, what: &str) {
        self.go(way).code(0);
        let found = self.state();
        if found != wanted {
            let text = similar::TextDiff::from_lines(wanted, &found);
            let text = text.unified_diff().header("undisturbed", "killed").to_string();
            panic!("{what}: {way:?} ends elsewhere:\n{text}");
        }
        let again = self.go(way).code(0);
        assert!(!again.stdout.contains("\"changed\""), "{what}: {}", again.stdout);
    }
}

pub fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
