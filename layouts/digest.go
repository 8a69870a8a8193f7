package layouts

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
)

// formerDigests maps the SHA-256 of built-in definitions to the SHA-256 of earlier texts,
// which give the same images: only comments, names of keys or keys that no image depends
// on were changed since.
var formerDigests = map[string]string{
	"a517b72b2e7ce76d50aa254195a902b7238f71b9036ca7e063d5ab085508a23d": "1120c499a085d8abd124779371d2eaed723033770897e95aeea759457dca79c1", // boards/photon-nx-agent.toml
	"7f4986326b0dbdd8b6340a0e31081f9e356372893cd707f31444d6947f9bec97": "3a96184b88853663c52531670477a0a8fb838416481aa380611225d9e00fc50a", // boards/photon-nx.ab-squashfs.toml
	"49ae71ef4c84f66cb089839acc55bc17840b6c0dc29585ab9dfbe5a1684edb8e": "5b73ba5239d437241b599d6e06f07a28968e1397bd336f12cb85f00b848556c9", // boards/photon-nx.toml
	"45d05b19c32f520dcd31b75e6de6e8495afcfd9a7380bd40ccc927196624e888": "6b3d1c1c317a310a014f30442706a4481e175969ea15eecac8beb1492517fbe2", // boards/rock64.toml
	"f3cff8dece92981dec33e417bd3fe738b94809468e9b71181dca6cf25d6f36fa": "0a7b29971be5eefb1a6aece77485fff04b78be5fc1605f4ec39b5938f050ca9c", // layouts/ab-squashfs.toml
	"ed6e7f4e1534d23b9511c694696f851b3110d3b0e44428399e07f41868d8e310": "dee82991e0e3415f517f2cb550e71c01492181390566ff82cfe66f76de79e51d", // layouts/jetson-extra-drive.toml
	"1b15ed991ea0d1c37387baadb60e016f242d7f49f8be0986973abd587bd43a5d": "f3d9e4807603e94600e2ba480fe821fbefaad0e02dece56096bed8e5cf47cf42", // layouts/photon-agent-nvme.toml
	"a1501e08c2467576e13cf553b697de8cb46698f9fb1f0db9eb2d5472c4eb46cc": "b3417b5af90fe55461c621c2d87db017f149e17897f910dcb1e3213055d486c8", // layouts/photon-nvme.toml
	"e7f16513368b494f8210cdd1443e09e39449417d987bf1fa8c2d78976bdb56c5": "fd5fdc167b894117e5f8991f0886968e8a8528697060399beb7fe10b219b458c", // layouts/photon-sd.toml
}

// FormerDigests returns the digests of earlier texts by the digests of built-in definitions.
func FormerDigests() map[string]string { return maps.Clone(formerDigests) }

// Digest returns the SHA-256 by which a definition counts in build IDs.
func Digest(text []byte) string {
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	return cmp.Or(formerDigests[digest], digest)
}
