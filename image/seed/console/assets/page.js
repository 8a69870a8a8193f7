// The page works without this script. With it, the text and the chosen file stay in the form
// while the device checks and applies them, and the steps of a job are shown as they happen.
"use strict"

const state = document.getElementById("state")
const input = document.getElementById("input")
const form = document.querySelector("form")

// request calls done with the page that the device answers with, or failed if it does not answer.
function request(method, url, body, done, failed) {
	const x = new XMLHttpRequest()
	x.open(method, url)
	x.responseType = "document"
	x.setRequestHeader("Accept", "text/html")
	x.onload = () => x.response ? done(x.response) : failed()
	x.onerror = failed
	x.send(body)
}

// show shows the state of another page, without changing what is in the form.
function show(page) {
	const other = page.getElementById("input")
	if (other && !input) {
		location.assign("/")
		return
	}
	const next = page.getElementById("state")
	state.dataset.view = next.dataset.view
	state.replaceChildren(...next.childNodes)
	document.title = page.title
	if (input) input.hidden = !other
	if (other) {
		const token = page.querySelector("form").bootstrap_token
		if (token) form.bootstrap_token.value = token.value
		const text = page.getElementById("config")
		if (text.value && form.config_file.value) {
			form.config.value = text.value // of the file
			form.config_file.value = ""
		}
		form.config.ariaInvalid = text.ariaInvalid
	}
	const focus = state.querySelector("[autofocus]")
	if (focus) focus.focus()
	follow()
}

// follow shows the steps of a job, and at its end the result.
function follow() {
	const job = state.querySelector("[data-job]")
	if (!job) return
	const url = job.dataset.job, bar = job.querySelector("progress")
	const now = document.getElementById("now"), steps = document.getElementById("steps")
	const source = new EventSource(url + "/events")
	const again = () => request("GET", url, null, show, () => setTimeout(again, 2000))
	source.onopen = () => steps.replaceChildren() // all steps are sent again
	source.addEventListener("step", e => {
		const step = JSON.parse(e.data), line = document.createElement("li")
		line.textContent = now.textContent = step.words
		steps.append(line)
		if (step.at >= 0) bar.value = step.at
	})
	source.addEventListener("end", () => {
		source.close()
		again()
	})
	source.onerror = () => {
		if (source.readyState === EventSource.CLOSED) setTimeout(again, 2000)
		else now.textContent = "Waiting for an answer of the device"
	}
}

// wait looks for a change of a device that starts.
function wait() {
	if (state.dataset.view !== "starting") return
	setTimeout(() => request("GET", "/", null, page => {
		if (page.getElementById("state").dataset.view !== "starting") show(page)
		wait()
	}, wait), 2000)
}

if (form) {
	const busy = document.getElementById("busy"), buttons = form.querySelectorAll("button")
	const ready = text => {
		busy.textContent = text
		for (const b of buttons) b.disabled = false
	}
	form.addEventListener("submit", e => {
		e.preventDefault()
		const body = new FormData(form)
		busy.textContent = "The device is checking the configuration…"
		for (const b of buttons) b.disabled = true
		request("POST", e.submitter.formAction, body,
			page => { ready(""); show(page) },
			() => ready("The device does not answer. Check the connection and try again."))
	})
	const insert = document.getElementById("insert")
	if (insert) insert.addEventListener("click", e => {
		e.preventDefault()
		if (form.config.value.trim() && !confirm("Replace the text in the field?")) return
		form.config.value = document.getElementById("example").textContent
		form.config.focus()
	})
}

// A link to a line selects it.
document.addEventListener("click", e => {
	const link = e.target.closest("[data-line]")
	if (!link || !form) return
	const lines = form.config.value.split("\n"), n = link.dataset.line - 1
	if (n >= lines.length) return
	e.preventDefault()
	const start = lines.slice(0, n).join("\n").length + (n > 0)
	form.config.focus()
	form.config.setSelectionRange(start, start + lines[n].length)
	form.config.scrollTop = form.config.scrollHeight * n / lines.length - form.config.clientHeight / 2
})

follow()
wait()
