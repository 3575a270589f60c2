package deb

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/lock"
)

// Renew looks up what a suite offers now: the newest generic kernel, the
// boot loader and e2fsck of each architecture. apt has checked Debian's signatures on the
// way to the SHA-256 sums.
func (s *Store) Renew(ctx context.Context, suite string) (*lock.File, error) {
	f := &lock.File{Suite: suite, Comment: "What images are made of that is not ours. Renewed by `appliance image lock --update`."}
	for _, arch := range image.Arches() {
		fmt.Fprintf(s.Log, "looking up what Debian %s has for %s\n", suite, arch)
		a, err := s.apt(suite, arch)
		if err != nil {
			return nil, err
		}
		if err := a.update(ctx); err != nil {
			return nil, fmt.Errorf("renew the lock file: %w", err)
		}
		kernel, err := a.kernelName(ctx, arch)
		if err != nil {
			return nil, fmt.Errorf("renew the lock file: %w", err)
		}
		for role, name := range map[lock.Role]string{lock.Kernel: kernel, lock.Loader: "systemd-boot-efi", lock.Fsck: "e2fsck-static"} {
			p, err := a.show(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("renew the lock file: %w", err)
			}
			p.Role, p.Arch = role, arch
			f.Packages = append(f.Packages, p)
		}
	}
	f.Sort()
	return f, nil
}

// kernelName is the package that linux-image-ARCH, which has no files, stands for.
func (a *apt) kernelName(ctx context.Context, arch image.Arch) (string, error) {
	meta := "linux-image-" + string(arch)
	fields, err := a.fields(ctx, meta)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(fields["Depends"], " ")
	if !strings.HasPrefix(name, "linux-image-") {
		return "", fmt.Errorf("package %s depends on %q, want a kernel", meta, fields["Depends"])
	}
	return name, nil
}

func (a *apt) show(ctx context.Context, name string) (p lock.Package, err error) {
	fields, err := a.fields(ctx, name)
	if err != nil {
		return p, err
	}
	size, err := strconv.ParseInt(fields["Size"], 10, 64)
	if err != nil {
		return p, fmt.Errorf("package %s: size: %w", name, err)
	}
	source, _, _ := strings.Cut(fields["Source"], " ")
	if source == "" {
		source = name
	}
	return lock.Package{Name: name, Version: fields["Version"], SHA256: fields["SHA256"], Size: size, Path: fields["Filename"], Source: source}, nil
}

// fields are those of the newest version of a package (deb-control(5)).
func (a *apt) fields(ctx context.Context, name string) (map[string]string, error) {
	out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && line[0] != ' ' {
			fields[key] = value
		}
	}
	return fields, nil
}
