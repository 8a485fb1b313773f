package config

import (
	"encoding/json"
	"slices"
)

// Schema returns the JSON schema (draft 7) of a configuration file, for
// editors. Load is stricter: a schema knows nothing of addresses and conflicts.
func Schema() []byte {
	tunnel := properties(tunnelKeywords(nil))
	id := tunnel["id"].(object)
	id["anyOf"] = []object{
		{"type": "integer", "minimum": id["minimum"], "maximum": id["maximum"]},
		{"type": "string", "pattern": "^[0-9]+ *- *[0-9]+$", "description": "a range, for several tunnels"},
	}
	delete(id, "type")
	delete(id, "minimum")
	delete(id, "maximum")

	shared := object{}
	for key, value := range tunnel {
		if !slices.Contains(ownKeys, key) {
			shared[key] = value
		}
	}
	peer := properties(peerKeywords(nil))
	peer["remote"] = object{"type": "string", "description": "address of the peer"}
	tunnel["name"] = object{"type": "string", "minLength": 1, "maxLength": 15, "description": "name of the tunnel's device; with %d for a range of ids"}
	fdb := properties(entryKeywords(nil))
	fdb["lladdr"] = object{"type": "string", "description": "MAC address of the entry"}
	half := func(description string) object {
		return object{"type": []string{"integer", "string"}, "description": description}
	}
	tunnel["vlan"] = object{"anyOf": []object{
		{"type": "array", "items": tableOf(object{"vid": half("VLAN ID, or a range"), "id": half("VNI, or as long a range")}, "vid", "id")},
		{"type": "string"},
		{"type": "array", "items": object{"type": "string"}, "minItems": 1},
	}, "description": "VLANs of a trunk and the segments they are"}
	tunnel["fdb"] = object{"type": "array", "items": tableOf(fdb, "lladdr", "dst"), "description": "entries of the forwarding table"}
	tunnel["peer"] = object{"type": "array", "items": tableOf(peer, "remote"), "description": "remote endpoints, where remote is not enough"}

	tunnels := tableOf(tunnel, "name")
	tunnels["anyOf"] = []object{{"required": []string{"id"}}, {"required": []string{"vlan"}}}
	text, err := json.MarshalIndent(object{
		"$schema":              "http://json-schema.org/draft-07/schema#",
		"title":                "gvtep configuration",
		"type":                 "object",
		"additionalProperties": false,
		"properties": object{
			"instance": object{"type": "string", "description": "name of the instance (that of the file)"},
			"include":  oneOrMore(object{"type": "string"}, "files to read as well, such as tenants.d/*.toml"),
			"log":      tableOf(properties(logKeywords())),
			"socket":   tableOf(properties(socketKeywords())),
			"metrics":  tableOf(properties(metricsKeywords())),
			"hooks":    tableOf(properties(hookKeywords())),
			"option":   object{"type": "array", "items": tableOf(properties(optionKeywords()), "name", "id"), "description": "kinds of GENEVE options of one's own"},
			"defaults": tableOf(shared),
			"tunnel":   object{"type": "array", "items": tunnels},
		},
	}, "", "  ")
	if err != nil {
		panic(err) // maps, strings and numbers only
	}
	return append(text, '\n')
}

type object map[string]any

func tableOf(properties object, required ...string) object {
	t := object{"type": "object", "additionalProperties": false, "properties": properties}
	if required != nil {
		t["required"] = required
	}
	return t
}

func oneOrMore(item object, description string) object {
	return object{"anyOf": []object{item, {"type": "array", "items": item, "minItems": 1}}, "description": description}
}

func properties[T any](table []entry[T]) object {
	all := object{}
	for i := range table {
		if e := &table[i]; e.Kind != Short {
			all[e.Name] = e.schema()
		}
	}
	return all
}

// schema says of a value what valueText asks of it.
func (e *entry[T]) schema() object {
	var forms []object
	number := object{"type": "integer", "minimum": e.Min, "maximum": e.Max}
	if e.Step != 0 {
		number["multipleOf"] = e.Step
	}
	switch {
	case e.Kind == List:
		return oneOrMore(object{"type": "string"}, e.Usage)
	case e.Kind == Pair:
		forms = []object{
			{"type": "array", "items": number, "minItems": 2, "maxItems": 2},
			{"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
		}
	default:
		if e.isSwitch() {
			forms = append(forms, object{"type": "boolean"})
		}
		if e.Number {
			forms = append(forms, number)
		}
		if e.Values != nil {
			forms = append(forms, object{"enum": e.Values})
		}
		if e.Text {
			forms = append(forms, object{"type": "string"})
		}
	}
	s := forms[0]
	if len(forms) > 1 {
		s = object{"anyOf": forms}
	}
	s["description"] = e.Usage
	if e.Default != "" && e.Kind != Pair {
		s["default"] = e.defaultValue()
	}
	return s
}

func (e *entry[T]) defaultValue() any {
	n, err := parseNumber(e.Default, 0, 1<<62, "")
	switch {
	case e.Kind == Switch:
		return e.Default == "true"
	case e.Number && err == nil:
		return n
	}
	return e.Default
}
