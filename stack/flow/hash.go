package flow

import "math/bits"

// mix is one round of a multiply-and-fold hash, as in wyhash: both halves of
// the 128-bit product.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b|1)
	return hi ^ lo ^ a
}
