package starter

import "encoding/binary"

// deviceTree returns a flattened device tree with nothing but a model, see chapter 5 of
// the Devicetree Specification.
func deviceTree(model string) []byte {
	const (
		beginNode, endNode, prop, end = 1, 2, 3, 9

		header  = 40
		reserve = 16 // one entry of zeros
	)
	be := binary.BigEndian
	names := "model\x00compatible\x00"
	nodes := be.AppendUint32(nil, beginNode)
	nodes = be.AppendUint32(nodes, 0) // the root has no name
	for _, p := range []struct {
		name  int
		value string
	}{{0, model}, {len("model") + 1, "imgtool,starter"}} {
		value := p.value + "\x00"
		nodes = be.AppendUint32(nodes, prop)
		nodes = be.AppendUint32(nodes, uint32(len(value)))
		nodes = be.AppendUint32(nodes, uint32(p.name))
		nodes = append(nodes, value...)
		nodes = append(nodes, make([]byte, -len(nodes)&3)...)
	}
	nodes = be.AppendUint32(nodes, endNode)
	nodes = be.AppendUint32(nodes, end)

	var b []byte
	for _, v := range []int{0xd00dfeed, header + reserve + len(nodes) + len(names), header + reserve, header + reserve + len(nodes), header,
		17, 16, 0, len(names), len(nodes)} { // versions 17 and 16, and the first processor
		b = be.AppendUint32(b, uint32(v))
	}
	b = append(b, make([]byte, reserve)...)
	b = append(b, nodes...)
	return append(b, names...)
}
