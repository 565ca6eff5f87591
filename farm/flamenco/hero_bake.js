// SPDX-License-Identifier: GPL-3.0-or-later
// Flamenco 3 job type: reactions to many clips. Put this file into the folder "scripts" beside flamenco-manager.
//
// The list is split into shards, one task each, that run on any worker at the same time. They share one folder: no clip
// is done twice, and a task that is tried again goes on where it was. Plain ES5, which Flamenco's engine runs in every
// version.

var JOB_TYPE = {
    label: "HERO Reactions",
    description: "Let characters react to a folder or a list of clips",
    settings: [
        { key: "clips", type: "string", subtype: "file_path", required: true, visible: "visible",
          description: "Folder of clips, or a .csv, .json or .txt list of them, where the workers see it" },
        { key: "shards", type: "int32", default: 8, propargs: {min: 1, max: 10000}, visible: "visible",
          description: "How many tasks the list is split into; about the clips divided by ten is a good start" },
        { key: "rigs", type: "string", visible: "visible", eval: "bpy.data.filepath",
          evalInfo: { showLinkButton: true, description: "The opened file" },
          description: "Files of characters, separated by ';'; empty: the list names one for each clip" },
        { key: "armature", type: "string", visible: "visible", eval: "C.object.name if C.object and C.object.type == 'ARMATURE' else ''",
          evalInfo: { showLinkButton: true, description: "The active armature" },
          description: "Name of the armature, where a rig has several" },
        { key: "out", type: "string", subtype: "dir_path", required: true, visible: "visible",
          eval: "bpy.path.abspath('//reactions')",
          description: "Folder of the results, where all workers see it" },
        { key: "formats", type: "string", default: "blend", visible: "visible",
          description: "What to write for each take: blend, fbx, glb, bvh, separated by spaces" },
        { key: "previews", type: "string", default: "", visible: "visible",
          description: "Pictures of each take: sheet, movie, both separated by a space, or none" },
        { key: "takes", type: "int32", default: 1, propargs: {min: 1, max: 1000}, visible: "visible",
          description: "How many reactions to each clip, from each seed on" },
        { key: "seeds", type: "string", default: "0", visible: "visible",
          description: "One or several whole numbers, separated by spaces" },
        { key: "model", type: "string", subtype: "dir_path", default: "", visible: "submission",
          description: "Folder of weights; empty: those that come with HERO" },
        { key: "more", type: "string", default: "", visible: "submission",
          description: "Further arguments of 'hero bake', as on a command line: --seconds 4 --no-pin" }
    ]
};

function compileJob(job) {
    var settings = job.settings;
    var words = argumentsOf(settings);
    var shards = wholeNumber(settings.shards, "shards", 1);
    for (var i = 1; i <= shards; i++) {
        var task = author.Task("react-" + i + "-of-" + shards, "blender");
        task.addCommand(author.Command("blender-render", {
            exe: "{blender}",
            exeArgs: "{blenderArgs}",
            argsBefore: [],
            blendfile: "",
            args: words.concat(["--shard", i + "/" + shards])
        }));
        job.addTask(task);
    }
}

// What stands behind "blender": a command of an extension takes all that follows it.
function argumentsOf(settings) {
    var words = ["--command", "hero", "bake", needed(settings, "clips"), "--out", needed(settings, "out")];
    var rigs = list(settings.rigs, ";");
    if (rigs.length) {
        words = words.concat(["--rig"], rigs);
    }
    words = words.concat(one("--armature", settings.armature), one("--model", settings.model));
    words = words.concat(["--format"], chosen(settings.formats, ["blend", "fbx", "glb", "bvh"], "formats", "blend"));
    var previews = chosen(settings.previews, ["sheet", "movie"], "previews", "");
    if (previews.length) {
        words = words.concat(["--preview"], previews);
    }
    words = words.concat(["--takes", "" + wholeNumber(settings.takes, "takes", 1), "--seed"]);
    var seeds = list(settings.seeds, " ");
    seeds = seeds.length ? seeds : ["0"];
    for (var i = 0; i < seeds.length; i++) {
        words.push("" + wholeNumber(seeds[i], "seeds", null));
    }
    return words.concat(split(settings.more));
}

function text(value) {
    return value === undefined || value === null ? "" : ("" + value).trim();
}

function needed(settings, key) {
    var value = text(settings[key]);
    if (!value) {
        throw "The setting '" + key + "' is empty.";
    }
    return value;
}

function one(name, value) {
    return text(value) ? [name, text(value)] : [];
}

function list(value, separator) {
    var found = [], parts = text(value).split(separator);
    for (var i = 0; i < parts.length; i++) {
        if (parts[i].trim()) {
            found.push(parts[i].trim());
        }
    }
    return found;
}

function chosen(value, possible, key, usual) {
    var found = list(text(value).replace(/,/g, " ") || usual, " ");
    for (var i = 0; i < found.length; i++) {
        if (possible.indexOf(found[i]) < 0) {
            throw "The setting '" + key + "' has '" + found[i] + "'; possible are " + possible.join(", ") + ".";
        }
    }
    return found;
}

function wholeNumber(value, key, least) {
    var number = Number(text(value) || (least === null ? "x" : least));
    if (Math.floor(number) !== number || (least !== null && number < least)) {
        throw "The setting '" + key + "' has '" + value + "'; whole numbers are needed.";
    }
    return number;
}

// Words of a command line; those in "…" or '…' may have spaces in them. A backslash stays what it is: Windows has them.
function split(value) {
    var words = [], word = "", open = false, quote = "", line = text(value);
    for (var i = 0; i < line.length; i++) {
        var letter = line.charAt(i);
        if (quote ? letter === quote : letter === "'" || letter === '"') {
            quote = quote ? "" : letter;
            open = true;
        } else if (letter === " " && !quote) {
            if (open) {
                words.push(word);
            }
            word = "";
            open = false;
        } else {
            word += letter;
            open = true;
        }
    }
    if (quote) {
        throw "The setting 'more' has a quote that is not closed.";
    }
    return open ? words.concat([word]) : words;
}
