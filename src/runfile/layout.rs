//! What of a driver all containers can share, and how it lies in one read-only tree.
//!
//! | in the tree | what |
//! |---|---|
//! | `lib/` | what the installer puts below `/usr/lib/<triplet>`, sub-directories kept |
//! | `lib32/` | the same of `/usr/lib/i386-linux-gnu` |
//! | `bin/` | programs of `/usr/bin`, without set-user-ID |
//! | `files/<absolute path>` | small files that libraries look up by their path: ICDs of OpenCL, Vulkan and EGL, application profiles, data of OptiX, the list of files for sandboxes |
//!
//! It does not depend on a recipe's options, because it is shared. Left out is what belongs to the
//! host (kernel modules, firmware), to a desktop (X configuration, menu entries, manual pages,
//! documents, systemd units) or to the installer. Left out are also the libraries that
//! distributions have packages of their own for, libglvnd's and the OpenCL loader: `ldconfig` would
//! prefer ours over the container's. Drivers before 361 had their own `libGL` under libglvnd's
//! name; they share no OpenGL.

use std::collections::BTreeMap;

use crate::architecture::Architecture;
use crate::runfile::manifest::{DestinationKind, Entry, Manifest, Selection};
use crate::runfile::options::{Choice, Options};

/// Libraries of libglvnd (<https://gitlab.freedesktop.org/glvnd/libglvnd>) and the OpenCL loader,
/// up to `.so`.
const OF_DISTRIBUTIONS: [&str; 8] = [
    "libEGL",
    "libGL",
    "libGLESv1_CM",
    "libGLESv2",
    "libGLX",
    "libGLdispatch",
    "libOpenCL",
    "libOpenGL",
];

/// Where small files go that libraries look up by their path.
const LOOKED_UP: [&str; 6] = [
    "/etc/OpenCL/vendors/",
    "/etc/vulkan/",
    "/etc/vulkansc/",
    "/usr/share/egl/egl_external_platform.d/",
    "/usr/share/glvnd/egl_vendor.d/",
    PROFILES,
];

/// Of application profiles, of OptiX and of sandboxes.
const PROFILES: &str = "/usr/share/nvidia/";

/// Everything that is shared of a driver, by its path in the tree.
pub fn shared(
    manifest: &Manifest,
    architecture: Architecture,
) -> BTreeMap<String, DestinationKind> {
    let include = Choice::Include;
    let options = Options {
        opengl: include,
        compat32: include,
        nvidia_modprobe: include,
        systemd: Choice::Exclude,
        wine: include,
        extra: Vec::new(),
    };
    let selection = Selection { architecture, options };
    let libraries = format!("/usr/lib/{}/", architecture.triplet());
    let mut tree: BTreeMap<String, DestinationKind> = manifest
        .placed(&selection)
        .filter(|(entry, _)| entry.type_name != "INSTALLER_BINARY")
        .filter_map(|(_, found)| Some((place(&found.path, &libraries)?, without_suid(found.kind))))
        .collect();
    tree.extend(manifest.entries.iter().filter_map(|entry| unplaced(entry, architecture)));
    drop_dangling(&mut tree);
    tree
}

fn place(path: &str, libraries: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix(libraries) {
        return is_nvidias(rest).then(|| format!("lib/{rest}"));
    }
    if let Some(rest) = path.strip_prefix("/usr/lib/i386-linux-gnu/") {
        return is_nvidias(rest).then(|| format!("lib32/{rest}"));
    }
    if let Some(rest) = path.strip_prefix("/usr/bin/") {
        return Some(format!("bin/{rest}"));
    }
    LOOKED_UP.iter().any(|place| path.starts_with(place)).then(|| format!("files{path}"))
}

/// Entries whose place the installer finds out when it runs.
fn unplaced(entry: &Entry, architecture: Architecture) -> Option<(String, DestinationKind)> {
    let name = entry.file.rsplit('/').next()?;
    match (entry.type_name.as_str(), &entry.target) {
        ("GBM_BACKEND_LIB_SYMLINK", Some(target)) => {
            let directory = match (entry.compat32, architecture) {
                (false, _) => "lib",
                (true, Architecture::X86_64) => "lib32",
                (true, _) => return None,
            };
            let target = format!("../{target}");
            Some((format!("{directory}/gbm/{name}"), DestinationKind::Link { target }))
        }
        ("APPLICATION_PROFILE", None) => {
            let source = entry.file.clone();
            let kind = DestinationKind::File { source, mode: entry.mode };
            Some((format!("files{PROFILES}{name}"), kind))
        }
        _ => None,
    }
}

fn is_nvidias(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split(".so").next().unwrap_or(name);
    !OF_DISTRIBUTIONS.contains(&stem)
}

fn without_suid(kind: DestinationKind) -> DestinationKind {
    match kind {
        DestinationKind::File { source, mode } => {
            DestinationKind::File { source, mode: mode & 0o777 }
        }
        link => link,
    }
}

/// Takes away links that lead to nothing in the tree, and then those that led to them.
fn drop_dangling(tree: &mut BTreeMap<String, DestinationKind>) {
    loop {
        let dangling: Vec<String> = tree
            .iter()
            .filter(|(path, kind)| match kind {
                DestinationKind::Link { target } => {
                    !leads_to(path, target).is_some_and(|found| tree.contains_key(&found))
                }
                DestinationKind::File { .. } => false,
            })
            .map(|(path, _)| path.clone())
            .collect();
        if dangling.is_empty() {
            return;
        }
        for path in dangling {
            tree.remove(&path);
        }
    }
}

/// The path in the tree that a link there leads to; `None` for one that leaves the tree.
fn leads_to(link: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "NVIDIA Accelerated Graphics Driver\n580.76.05\n0\nnvidia\nx\nx\nx\nx\n\
        nvidia-installer 0755 INSTALLER_BINARY MODULE:installer\n\
        nvidia-uninstall 0000 UTILITY_BIN_SYMLINK nvidia-installer MODULE:installer\n\
        nvidia-smi 0755 UTILITY_BINARY MODULE:nvml\n\
        nvidia-modprobe 04755 NVIDIA_MODPROBE /usr/bin/ MODULE:installer\n\
        nvidia-smi.1.gz 0644 MANPAGE man1/ MODULE:nvml\n\
        firmware/gsp_ga10x.bin 0644 FIRMWARE INHERIT_PATH_DEPTH:1 MODULE:gsp\n\
        kernel/nvidia/nv.c 0644 KERNEL_MODULE_SRC INHERIT_PATH_DEPTH:1 MODULE:resman\n\
        nvidia_drv.so 0755 XMODULE_SHARED_LIB drivers/ MODULE:xdriver\n\
        10-nvidia.conf 0644 XORG_OUTPUTCLASS_CONFIG MODULE:xdriver\n\
        systemd/nvidia-suspend.service 0644 SYSTEMD_UNIT MODULE:powermanagement\n\
        glvnd_check 0755 INTERNAL_UTILITY_BINARY NATIVE MODULE:installer\n\
        libcuda.so.580.76.05 0755 CUDA_LIB NATIVE / MODULE:gpgpu\n\
        libcuda.so.1 0000 CUDA_SYMLINK NATIVE / libcuda.so.580.76.05 MODULE:gpgpu\n\
        libcuda.so 0000 CUDA_SYMLINK NATIVE / libcuda.so.1 MODULE:gpgpu\n\
        ./32/libcuda.so.580.76.05 0755 CUDA_LIB COMPAT32 / MODULE:gpgpu\n\
        libvdpau_nvidia.so.580.76.05 0755 VDPAU_LIB NATIVE vdpau/ MODULE:vdpau\n\
        _nvngx.dll 0644 WINE_LIB NATIVE MODULE:opengl\n\
        libGL.so.1.7.0 0755 GLX_CLIENT_LIB NATIVE MODULE:opengl\n\
        libGL.so.1 0000 GLX_CLIENT_SYMLINK NATIVE libGL.so.1.7.0 MODULE:opengl\n\
        libGL.so 0000 GLX_CLIENT_SYMLINK NATIVE libGL.so.1 MODULE:opengl\n\
        libGLX.so.0 0755 GLVND_LIB NATIVE MODULE:opengl\n\
        libGLX_nvidia.so.580.76.05 0755 OPENGL_LIB NATIVE MODULE:opengl\n\
        libOpenCL.so.1.0.0 0755 OPENCL_WRAPPER_LIB NATIVE / MODULE:opencl\n\
        libnvidia-allocator.so.580.76.05 0755 UTILITY_LIB NATIVE MODULE:opengl\n\
        nvidia-drm_gbm.so 0000 GBM_BACKEND_LIB_SYMLINK NATIVE libnvidia-allocator.so.580.76.05 M:x\n\
        nvidia.icd 0644 CUDA_ICD MODULE:opencl\n\
        nvidia_icd.json 0644 VULKAN_ICD_JSON icd.d/ MODULE:vulkan\n\
        10_nvidia.json 0644 GLVND_EGL_ICD_JSON MODULE:opengl\n\
        15_nvidia_gbm.json 0644 EGL_EXTERNAL_PLATFORM_JSON MODULE:opengl\n\
        nvoptix.bin 0644 OPENGL_DATA /usr/share/nvidia MODULE:optix\n\
        nvidia-application-profiles-580.76.05-rc 0644 APPLICATION_PROFILE . MODULE:opengl\n\
        sandboxutils-filelist.json 0644 SANDBOXUTILS_FILELIST_JSON . MODULE:gpgpu\n\
        brand-new 0644 BRAND_NEW_TYPE what ever\n";

    #[test]
    fn what_containers_share_has_one_place_and_the_rest_none() {
        let tree = shared(&Manifest::parse(LIST).unwrap(), Architecture::X86_64);
        let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "bin/nvidia-modprobe",
                "bin/nvidia-smi",
                "files/etc/OpenCL/vendors/nvidia.icd",
                "files/etc/vulkan/icd.d/nvidia_icd.json",
                "files/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
                "files/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
                "files/usr/share/nvidia/files.d/sandboxutils-filelist.json",
                "files/usr/share/nvidia/nvidia-application-profiles-580.76.05-rc",
                "files/usr/share/nvidia/nvoptix.bin",
                "lib/gbm/nvidia-drm_gbm.so",
                "lib/libGLX_nvidia.so.580.76.05",
                "lib/libcuda.so",
                "lib/libcuda.so.1",
                "lib/libcuda.so.580.76.05",
                "lib/libnvidia-allocator.so.580.76.05",
                "lib/nvidia/wine/_nvngx.dll",
                "lib/vdpau/libvdpau_nvidia.so.580.76.05",
                "lib32/libcuda.so.580.76.05",
            ]
        );
        let modprobe = &tree["bin/nvidia-modprobe"];
        assert!(matches!(modprobe, DestinationKind::File { mode: 0o755, .. }), "{modprobe:?}");
        let gbm =
            DestinationKind::Link { target: "../libnvidia-allocator.so.580.76.05".to_owned() };
        assert_eq!(tree["lib/gbm/nvidia-drm_gbm.so"], gbm);
    }

    #[test]
    fn a_link_that_leaves_the_tree_leads_nowhere() {
        assert_eq!(leads_to("lib/a/b", "../c").as_deref(), Some("lib/c"));
        assert_eq!(leads_to("lib/a", "../../etc/passwd"), None);
        assert_eq!(leads_to("lib/a", "/etc/passwd"), None);
    }
}
