package build

import (
	"crypto/sha1"
	"encoding/hex"
)

// sha1Sum is what SPDX 2.3 (8.4) wants of every file; the SHA-256 beside it is
// what counts.
func sha1Sum(data []byte) string {
	sum := sha1.Sum(data)
	return hex.EncodeToString(sum[:])
}
