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
	"cec9e03d35165d71f71785451e845194f141451c9a68cb836b46c92bbdd3a7d0": "89e0001a702a2461fd96a4ee74bdc51b1150051327bd78ac6721ccf10bd5b918", // boards/edits/photon-agent-common.toml
	"83a3dc8f05316e48390b59e06f85ccc967dfee161205f9d6a4d9f41cd47a77b1": "9496c0b127c0c000494b1a1461cf7d508c7b986933864dd13f4f45493d0a7081", // boards/edits/photon-agent.toml
	"8e15f7e9efc9933379abd7a25252c3fbaf289c38da649b754b5b85543fae0768": "bcdb8cc93cb3da3e17e70692f82f3486e4b8dd532b1e19c2910efa945335e082", // boards/edits/photon-common.toml
	"10c6d73ecac388201f987ea02d3f3c5b4efd946bda33f3aa796d068aebe4c68f": "2977ce24493f14133b09d1cf81b9b149a905314c840dd8ac7593e8a42c84ca6b", // boards/edits/photon-core.toml
	"fd51b29ae1ad928a7cca7a282a893fdd05ac152dfe7511c2083dde67209fa986": "66bb259c2b00fa47b948e1622098ddc41379c7f27f009824edb3941937c65d16", // boards/edits/photon-emmc.toml
	"814f004cd26f1682cc85ec6bd4601480fce3153e70a17ea79502cefb9309df18": "9ff4a9c8cce7be471a06d7b2e79bc3c143a1b368d3c2c1a880f6c74aa3d5abfe", // boards/edits/photon-lockdown.toml
	"7e9d7e10ec3d5e73ceb8c810fc5d86a62691b9f03e66c4352264607ddb264e18": "622e5e4a117d022eff9b7fb62ccaebfd3671a168fbb0bf2761c6697eb5da6803", // boards/edits/photon-no-keys.toml
	"f2b66fd3986db7220a78a31b8e59318204aff9165879635d6bbc79a13d91c014": "e2b350fb43174098a2a36285eb1e201b405ae858104eae908c42bc763fc389a9", // boards/edits/photon-upper.toml
	"7b5e235f5af49e4154ded58fff53cd21d7ebbad18d318d44dc2130736e29e12e": "1120c499a085d8abd124779371d2eaed723033770897e95aeea759457dca79c1", // boards/photon-nx-agent.toml
	"4f1709591406e82fe62ffd2cb36013d6b1ca978e2b27629df60d0fd8651324c3": "3a96184b88853663c52531670477a0a8fb838416481aa380611225d9e00fc50a", // boards/photon-nx.ab-squashfs.toml
	"d96a5375db2e4304fe9328a15e8132a8b894740d5a993a22ffb85acce7b2cd9d": "5b73ba5239d437241b599d6e06f07a28968e1397bd336f12cb85f00b848556c9", // boards/photon-nx.toml
	"96a7417b2ebab799e4b110c70239e51a692269386ac69633e7544f31c9b50d58": "6b3d1c1c317a310a014f30442706a4481e175969ea15eecac8beb1492517fbe2", // boards/rock64.toml
	"f3cff8dece92981dec33e417bd3fe738b94809468e9b71181dca6cf25d6f36fa": "0a7b29971be5eefb1a6aece77485fff04b78be5fc1605f4ec39b5938f050ca9c", // layouts/ab-squashfs.toml
	"ed6e7f4e1534d23b9511c694696f851b3110d3b0e44428399e07f41868d8e310": "dee82991e0e3415f517f2cb550e71c01492181390566ff82cfe66f76de79e51d", // layouts/jetson-extra-drive.toml
	"4f207a7d6a2a95677c140869d8d5d43307101daf28af2010bd471e859dd918a1": "f89487c73c002dfd92567e3f595d62d2fefd749bcb7f535e6f61ac3df9a8998e", // layouts/photon-agent-emmc.toml
	"1b15ed991ea0d1c37387baadb60e016f242d7f49f8be0986973abd587bd43a5d": "f3d9e4807603e94600e2ba480fe821fbefaad0e02dece56096bed8e5cf47cf42", // layouts/photon-agent-nvme.toml
	"429d9b91db06fcb19895d58b4e95d0138a565eb7e88aab3e9f868b3c76fc8cb9": "13466e08518e8d88450df4cdbfa77bb3efc501e56779ee4aabb72808386e4341", // layouts/photon-emmc.toml
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
