package bundle

import (
	"fmt"
	"os"
	"path/filepath"

	"aead.dev/minisign"
)

// KeyDir is where a box has the public keys it trusts, one minisign .pub file
// each.
const KeyDir = "/etc/lastack/update-keys"

// Keys reads the public keys of a directory. One that can't be read is an
// error: a key that is thought to count and doesn't is found out too late.
func Keys(dir string) ([]minisign.PublicKey, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return nil, err
	}
	var all []minisign.PublicKey
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var key minisign.PublicKey
		if err := key.UnmarshalText(text); err != nil {
			return nil, fmt.Errorf("%s is no minisign public key: %w", file, err)
		}
		all = append(all, key)
	}
	return all, nil
}
