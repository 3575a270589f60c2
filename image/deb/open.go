package deb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Unpack puts the files of a package into a new directory below dir, which is
// the caller's to remove.
func Unpack(ctx context.Context, file, dir string) (string, error) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		return "", fmt.Errorf("unpack %s: dpkg-deb is missing: apt-get install dpkg", file)
	}
	out, err := os.MkdirTemp(dir, "deb-")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "-x", file, out)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w: %s", file, err, strings.TrimSpace(string(text)))
	}
	return out, nil
}
